"""Statistics against SciPy and the formulas they come from."""

from __future__ import annotations

import numpy as np
import pytest
from attention_patchbay.headless.sweep.statistics import (
    LEVEL,
    PRIOR,
    Scale,
    estimate,
    holm,
    quartiles,
    scores,
    t_quantile,
    t_within,
)
from scipy import optimize, stats


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7, 8, 30, 101])
def test_students_t_is_that_of_scipy(degrees: int) -> None:
    for t in (0.0, 0.1, 1.0, 2.5, 7.0, 40.0):
        assert t_within(t, degrees) == pytest.approx(1 - 2 * stats.t.sf(t, degrees), abs=1e-13)
    for level in (0.5, 0.9, 0.95, 0.999):
        assert t_quantile(level, degrees) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_a_paired_difference_is_the_t_test_of_scipy(n: int) -> None:
    random = np.random.default_rng(n)
    one, other = random.normal(1.0, 0.3, n), random.normal(0.8, 0.3, n)
    found = estimate([float(x) for x in one - other])
    truth = stats.ttest_rel(one, other)
    low, high = truth.confidence_interval(LEVEL)
    assert found is not None and found.n == n and found.mean == pytest.approx((one - other).mean())
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(truth.pvalue)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        found = estimate([float(x) for x in random.normal(0.5, 1.0, 5)])
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 0.5 <= found.high
    assert 0.93 < held / 1000 < 0.97


def test_few_or_equal_values_say_what_can_be_said() -> None:
    assert estimate([]) is None
    alone = estimate([3.0])
    assert alone is not None and (alone.n, alone.mean, alone.low, alone.p) == (1, 3.0, None, None)
    none, same = estimate([0.0, 0.0, 0.0]), estimate([2.0, 2.0])
    assert none is not None and (none.low, none.high, none.p) == (0.0, 0.0, 1.0)
    assert same is not None and (same.low, same.high, same.p) == (2.0, 2.0, 0.0)


def test_a_measure_is_held_against_what_it_is_where_nothing_differs() -> None:
    ssim, random = Scale(1.0, -1.0, 1.0), np.random.default_rng(0)
    values = [1.0 - float(x) for x in random.exponential(1e-6, 5)]
    found, same = estimate(values, ssim), estimate([1.0, 1.0], ssim)
    assert found is not None and found.p == pytest.approx(stats.ttest_1samp(values, 1.0).pvalue)
    assert same is not None and (same.low, same.high, same.p) == (1.0, 1.0, 1.0)


def test_an_interval_ends_where_the_measure_does() -> None:
    high, low = estimate([0.9, 1.0], Scale(1.0, -1.0, 1.0)), estimate([0.0, 0.1], Scale(0.0, 0.0))
    assert high is not None and high.high == 1.0 and low is not None and low.low == 0.0
    assert high.p == pytest.approx(stats.ttest_1samp([0.9, 1.0], 1.0).pvalue)


def test_holm_multiplies_by_how_many_are_left() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == [0.03, 0.06, 0.06, None]
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([None, None]) == [None, None] and holm([]) == []


def test_holm_is_wrong_as_seldom_as_it_says() -> None:
    random = np.random.default_rng(1)
    wrong = sum(any((p or 0.0) < 0.05 for p in holm([float(p) for p in random.random(10)])) for _ in range(2000))
    assert wrong / 2000 < 0.065  # uncorrected 0.40


def test_quartiles_are_those_of_numpy() -> None:
    assert quartiles([]) is None
    assert quartiles([4.0, 1.0, 2.0, 3.0]) == (1.75, 2.5, 3.25)


def test_bradley_terry_is_the_maximum_of_its_likelihood() -> None:
    wins = np.array([[0.0, 8.0, 9.5], [2.0, 0.0, 6.0], [0.5, 4.0, 0.0]])

    def loss(theta: np.ndarray) -> float:
        chance = 1 / (1 + np.exp(theta[None] - theta[:, None]))
        alone = 1 / (1 + np.exp(-theta))
        return -float((wins * np.log(chance)).sum() + PRIOR * (np.log(alone) + np.log(1 - alone)).sum())

    best = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    found = scores(wins)
    assert [one.mean for one in found] == pytest.approx(list(best - best.mean()), abs=1e-5)
    assert [one.n for one in found] == [20, 20, 20]
    steps, centred = np.eye(3) * 1e-3, np.eye(3) - 1 / 3
    bend = np.array(
        [
            [loss(best + a + b) - loss(best + a - b) - loss(best - a + b) + loss(best - a - b) for b in steps]
            for a in steps
        ]
    ) / (4e-6)
    reach = [(one.high or 0.0) - one.mean for one in found]
    assert reach == pytest.approx(list(1.959964 * np.sqrt(np.diag(centred @ np.linalg.inv(bend) @ centred))), rel=0.01)


def test_who_was_never_chosen_has_a_score_too() -> None:
    first, last, unseen = scores(np.array([[0.0, 10.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert 1.0 < first.mean < 5.0 and last.mean == pytest.approx(-first.mean)
    assert unseen.n == 0 and unseen.mean == pytest.approx(0.0) and (unseen.high or 0.0) > (first.high or 0) - first.mean
    assert scores(np.zeros((0, 0))) == []
