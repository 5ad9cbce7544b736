"""Schedules against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from attention_patchbay.ldm_patched.sampling.model_sampling import discrete_sampling
from attention_patchbay.ldm_patched.sampling.schedulers import SCHEDULER_NAMES, beta_quantile, calculate_sigmas

SAMPLING = discrete_sampling()
TRAINED = SAMPLING.sigmas.double().numpy()
LOW, HIGH = TRAINED[0], TRAINED[-1]


def at(steps: np.ndarray) -> np.ndarray:
    """Return trained sigmas at fractional steps, interpolated in the logarithm."""
    return np.exp(np.interp(steps, np.arange(1000), np.log(TRAINED)))


@pytest.mark.parametrize("n", [1, 4, 20, 33])
@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_schedules_descend_from_the_top_to_zero(name: str, n: int) -> None:
    sigmas = calculate_sigmas(SAMPLING, name, n)
    assert sigmas[-1] == 0 and (sigmas[:-1] > sigmas[1:]).all()
    assert sigmas[0] > 0.9 * HIGH or name == "ddim_uniform"
    assert len(sigmas) == n + 1 or name in ("ddim_uniform", "beta")


@pytest.mark.parametrize("n", [5, 20])
def test_formulas(n: int) -> None:
    share = np.linspace(0, 1, n)
    wanted = {
        "karras": (HIGH ** (1 / 7) + share * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7,
        "exponential": HIGH ** (1 - share) * LOW**share,
        "normal": at(999 * (1 - share)),
        "sgm_uniform": at(999 * (1 - np.arange(n) / n)),
        "simple": TRAINED[[999 - int(i * 1000 / n) for i in range(n)]],
        "ddim_uniform": TRAINED[1 :: 1000 // n][::-1],
        "kl_optimal": np.tan(share * math.atan(LOW) + (1 - share) * math.atan(HIGH)),
    }
    for name, formula in wanted.items():
        np.testing.assert_allclose(calculate_sigmas(SAMPLING, name, n)[:-1].numpy(), formula, rtol=2e-4, err_msg=name)


def test_beta_takes_trained_sigmas_at_the_quantiles() -> None:
    indices = np.rint(beta_quantile(1 - np.arange(20) / 20, 0.6, 0.6) * 999).astype(int)
    np.testing.assert_allclose(calculate_sigmas(SAMPLING, "beta", 20)[:-1].numpy(), TRAINED[indices], rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (2.0, 5.0), (1.0, 1.0)])
def test_beta_quantile_inverts_the_integral_of_the_density(a: float, b: float) -> None:
    share = np.array([0.001, 0.2, 0.5, 0.9, 0.999])
    quantiles = beta_quantile(share, a, b)
    # with t = sin(u) ** 2 the density is 2 sin(u) ** (2 a - 1) cos(u) ** (2 b - 1), which is smooth enough to sum up
    u = (np.arange(400_000) + 0.5) / 400_000 * math.pi / 2
    density = np.sin(u) ** (2 * a - 1) * np.cos(u) ** (2 * b - 1)
    below = [density[np.sin(u) ** 2 <= q].sum() / density.sum() for q in quantiles]
    np.testing.assert_allclose(below, share, atol=2e-5)


def test_linear_quadratic_starts_with_equal_small_steps() -> None:
    sigmas = calculate_sigmas(SAMPLING, "linear_quadratic", 20).double().numpy() / HIGH
    np.testing.assert_allclose(-np.diff(sigmas)[:10], 0.0025, rtol=1e-3)
    np.testing.assert_allclose(np.diff(sigmas[10:], 3), 0, atol=1e-6)


def test_a_schedule_that_has_zero_signal_at_the_end_of_training() -> None:
    sampling = discrete_sampling("v_prediction", zsnr=True)
    for name in SCHEDULER_NAMES:
        sigmas = calculate_sigmas(sampling, name, 10)
        assert sigmas.isfinite().all() and sigmas[-1] == 0


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'cosine'; known are simple, sgm_uniform"):
        calculate_sigmas(SAMPLING, "cosine", 4)
