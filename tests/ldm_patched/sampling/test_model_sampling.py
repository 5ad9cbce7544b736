"""Noise schedules and predictions against their formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.sampling.model_sampling import SAMPLING_TYPES, ContinuousV, discrete_sampling

from ..tiny import draw

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHA_BAR = np.cumprod(1 - BETAS)
SIGMAS = np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)


def test_sigmas_follow_from_the_betas() -> None:
    sampling = discrete_sampling()
    np.testing.assert_allclose(sampling.sigmas.numpy(), SIGMAS, rtol=1e-6)
    assert sampling.sigma_max == pytest.approx(14.6146, abs=1e-4) and sampling.sigma_min == pytest.approx(
        0.0292, abs=1e-4
    )


@pytest.mark.parametrize("step", [0, 1, 500, 999])
def test_steps_and_sigmas_invert_each_other(step: int) -> None:
    sampling = discrete_sampling()
    assert sampling.timestep(sampling.sigma(torch.tensor([float(step)]))).tolist() == [step]


def test_sigma_between_two_steps_is_their_geometric_mean() -> None:
    between = discrete_sampling().sigma(torch.tensor(500.5))
    assert between.item() == pytest.approx(math.sqrt(SIGMAS[500] * SIGMAS[501]), rel=1e-6)


def test_timestep_picks_the_nearest_in_the_logarithm() -> None:
    sampling = discrete_sampling()
    just_above_middle = math.exp(0.49 * math.log(SIGMAS[10]) + 0.51 * math.log(SIGMAS[11]))
    assert sampling.timestep(torch.tensor([just_above_middle, 1e-9, 1e9])).tolist() == [11, 0, 999]


@pytest.mark.parametrize("kind", SAMPLING_TYPES)
def test_percent_runs_from_before_the_start_to_the_end(kind: str) -> None:
    sampling = discrete_sampling(kind)
    assert sampling.percent_to_sigma(0.0) == sampling.percent_to_sigma(-1) == 999999999.9
    assert sampling.percent_to_sigma(1.0) == sampling.percent_to_sigma(2) == 0.0
    if kind != "lcm":
        assert sampling.percent_to_sigma(0.5) == pytest.approx(math.sqrt(SIGMAS[499] * SIGMAS[500]), rel=1e-5)
    assert sampling.percent_to_sigma(0.2) > sampling.percent_to_sigma(0.3)


def test_zero_terminal_snr_leaves_no_signal_in_the_last_step() -> None:
    root = np.sqrt(ALPHA_BAR)
    scaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    wanted = np.sqrt((1 - scaled[:-1] ** 2) / scaled[:-1] ** 2)
    sigmas = discrete_sampling("v_prediction", zsnr=True).sigmas.numpy()
    np.testing.assert_allclose(sigmas[:-1], wanted, rtol=1e-5)
    assert 4000 < sigmas[-1] < 5000


def test_distilled_schedule_keeps_every_twentieth_step() -> None:
    sampling = discrete_sampling("lcm")
    np.testing.assert_allclose(sampling.sigmas.numpy(), SIGMAS[19::20], rtol=1e-6)
    assert sampling.timestep(sampling.sigmas[[0, 7, 49]]).tolist() == [19, 159, 999]
    assert sampling.sigma(torch.tensor(159)).item() == pytest.approx(SIGMAS[159], rel=1e-6)


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.0])
def test_every_prediction_of_the_same_latent_denoises_to_it(sigma: float) -> None:
    x0, noise = draw(0, 2, 4, 3, 3).double(), draw(1, 2, 4, 3, 3).double()
    x, sigmas = x0 + sigma * noise, torch.full((2,), sigma, dtype=torch.float64)
    alpha = 1 / math.sqrt(1 + sigma**2)
    velocity = alpha * noise - sigma * alpha * x0  # v of the variance-preserving latent alpha * x
    for kind, output in {"eps": noise, "x0": x0, "v_prediction": velocity}.items():
        torch.testing.assert_close(discrete_sampling(kind).calculate_denoised(sigmas, output, x), x0)


def test_input_has_unit_variance() -> None:
    sigmas = torch.tensor([0.5, 10.0])
    x = draw(0, 2, 4, 64, 64) + sigmas.reshape(2, 1, 1, 1) * draw(1, 2, 4, 64, 64)
    scaled = discrete_sampling().calculate_input(sigmas, x)
    torch.testing.assert_close(scaled.std(dim=(1, 2, 3)), torch.ones(2), rtol=0.02, atol=0)


def test_consistency_function_is_the_identity_at_step_zero() -> None:
    class AtStepZero(type(discrete_sampling("lcm"))):  # type: ignore[misc]
        def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(sigma)

    x, noise = draw(0, 1, 4, 3, 3), draw(1, 1, 4, 3, 3)
    torch.testing.assert_close(AtStepZero().calculate_denoised(torch.tensor([1.0]), noise, x), x)
    late = discrete_sampling("lcm").calculate_denoised(torch.tensor([10.0]), noise, x)
    torch.testing.assert_close(late, x - 10.0 * noise, rtol=1e-4, atol=1e-3)


def test_noise_scaling_has_full_variance_at_the_top_only() -> None:
    noise, latent = draw(0, 1, 4, 3, 3), draw(1, 1, 4, 3, 3)
    sampling, sigma = discrete_sampling(), torch.tensor(3.0)
    torch.testing.assert_close(sampling.noise_scaling(sigma, noise, latent), 3 * noise + latent)
    torch.testing.assert_close(sampling.noise_scaling(sigma, noise, latent, True), math.sqrt(10) * noise + latent)


def test_continuous_levels_are_even_in_the_logarithm() -> None:
    sampling = ContinuousV(sigma_min=0.002, sigma_max=700.0)
    np.testing.assert_allclose(sampling.sigmas.numpy(), np.geomspace(0.002, 700.0, 1000), rtol=1e-5)
    assert sampling.sigma_min == pytest.approx(0.002) and sampling.sigma_max == pytest.approx(700.0)
    sigma = torch.tensor([0.002, 1.0, 33.0])
    torch.testing.assert_close(sampling.timestep(sigma), torch.tensor([math.log(s) / 4 for s in (0.002, 1, 33)]))
    torch.testing.assert_close(sampling.sigma(sampling.timestep(sigma)), sigma)
    assert sampling.percent_to_sigma(0.5) == pytest.approx(math.sqrt(0.002 * 700), rel=1e-5)
    assert sampling.percent_to_sigma(0.0) == 999999999.9 and sampling.percent_to_sigma(1.0) == 0.0


def test_continuous_velocity_denoises_to_the_latent() -> None:
    x0, noise, sigma = draw(0, 2, 4, 3, 3).double(), draw(1, 2, 4, 3, 3).double(), 20.0
    alpha = 1 / math.sqrt(1 + sigma**2)
    velocity = alpha * noise - sigma * alpha * x0
    sigmas = torch.full((2,), sigma, dtype=torch.float64)
    torch.testing.assert_close(ContinuousV().calculate_denoised(sigmas, velocity, x0 + sigma * noise), x0)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'edm'; known are eps, v_prediction, lcm, x0"):
        discrete_sampling("edm")
