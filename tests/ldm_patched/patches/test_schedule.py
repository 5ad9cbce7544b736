from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule, parse_curve, percent_of
from attention_patchbay.ldm_patched.sampling.model_sampling import discrete_sampling
from hypothesis import given
from hypothesis import strategies as st

from .models import patcher

MILLE = 1000
CURVES = json.loads((Path(__file__).parents[2] / "data" / "curves.json").read_text())
shares = st.integers(0, MILLE)


@given(shares, shares, shares)
def test_the_window_is_half_open_and_closed_at_the_end_of_the_run(a: int, b: int, percent: int) -> None:
    start, end = sorted((a, b))
    inside = start <= percent < end or (end == MILLE == percent and start < MILLE)
    assert Schedule(start / MILLE, end / MILLE).weight(percent / MILLE) == (1.0 if inside else 0.0)


@given(st.lists(shares, min_size=1, max_size=5, unique=True), st.floats(0, 1))
def test_neighbouring_windows_share_no_moment(cuts: list[int], percent: float) -> None:
    edges = [0, *sorted(cuts), MILLE]
    windows = [Schedule(a / MILLE, b / MILLE) for a, b in zip(edges, edges[1:], strict=False) if a < b]
    assert sum(window.weight(percent) for window in windows) == 1.0


@pytest.mark.parametrize("prediction", ["eps", "flow"])
def test_a_step_at_the_edge_of_a_window_lies_in_it_whatever_the_rounding(prediction: str) -> None:
    to_sigma = flow if prediction == "flow" else discrete_sampling("eps", False).percent_to_sigma
    for mille in range(1, MILLE):
        sigma = float(torch.tensor(to_sigma(mille / MILLE)))  # as a sampler keeps it, in float32
        percent = percent_of(sigma, to_sigma)
        assert Schedule(mille / MILLE, 1.0).weight(percent) == 1.0
        assert Schedule(0.0, mille / MILLE).weight(percent) == 0.0


def flow(percent: float) -> float:
    """The noise level of a flow model with shift 3."""
    t = 1.0 - percent
    return 3.0 * t / (1.0 + 2.0 * t)


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [(1 + math.cos(math.pi * p)) / 2 for p in (0, 0.25, 0.5, 0.75)]),
        ("0:0, 0.5:1, 1:0", [0, 0.5, 1, 0.5]),
        ("0.25:0.5", [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_a_curve_runs_over_the_window(curve: str, wanted: list[float]) -> None:
    schedule = Schedule(0.2, 0.6, curve)
    assert [schedule.weight(0.2 + 0.4 * p) for p in (0, 0.25, 0.5, 0.75)] == pytest.approx(wanted)
    assert schedule.weight(0.19) == 0.0
    assert schedule.weight(0.6) == 0.0
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, 1.0), "start_percent is -0.1"),
        ((0.0, 1.5), "end_percent is 1.5"),
        ((math.nan, 1.0), "start_percent is nan"),
        ((0.6, 0.4), "swap them"),
        ((0, 1, "wavy"), "cannot read 'wavy'"),
        ((0, 1, ""), "cannot read ''"),
        ((0, 1, "0:1, 0:0.5"), "positions must rise"),
        ((0, 1, "2:1"), "out of range"),
        ((0, 1, "0:nan"), "out of range"),
        ((0, 1, "0:1.5"), "strengths go from 0 to 1"),
    ],
)
def test_an_impossible_schedule_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(*arguments)


def test_the_percent_of_a_sigma_inverts_the_model() -> None:
    sampling = patcher().get_model_object("model_sampling")
    for percent in (0.05, 0.3, 0.5, 0.77, 0.99):
        assert percent_of(sampling.percent_to_sigma(percent), sampling.percent_to_sigma) == pytest.approx(
            percent, abs=5e-7
        )
    assert percent_of(float(sampling.sigma_max), sampling.percent_to_sigma) == pytest.approx(0.0, abs=1e-3)
    assert percent_of(0.0, sampling.percent_to_sigma) == 1.0


@pytest.mark.parametrize(("text", "values"), CURVES["cases"])
def test_the_page_and_the_nodes_read_curves_alike(text: str, values: list[float]) -> None:
    found = [parse_curve(text)(position) for position in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("text", CURVES["wrong"])
def test_the_page_and_the_nodes_refuse_curves_alike(text: str) -> None:
    with pytest.raises(ValueError, match="curve: "):
        parse_curve(text)
