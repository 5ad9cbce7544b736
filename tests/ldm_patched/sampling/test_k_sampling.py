"""Samplers on Gaussian data, where the denoiser, the flow's end point and every marginal are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from attention_patchbay.ldm_patched.modules import model_management
from attention_patchbay.ldm_patched.sampling.k_sampling import Run, brownian_noise, gaussian_noise
from attention_patchbay.ldm_patched.sampling.model_sampling import discrete_sampling
from attention_patchbay.ldm_patched.sampling.sampler import SAMPLERS
from torch import Tensor

from ..tiny import draw

MEAN, STD = 0.7, 0.5
TOP = 10.0
# UniPC's last step is a first-order one, which costs it its third order
ORDERS = {"euler": 1, "ddim": 1, "heun": 2, "dpm_2": 2, "dpmpp_2m": 2, "uni_pc": 2, "uni_pc_bh2": 2}
STOCHASTIC = ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde"]


def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean of the data given x = data + sigma * noise."""
    variance = sigma.reshape(-1, 1, 1, 1) ** 2
    return (STD**2 * x + variance * MEAN) / (STD**2 + variance)


def schedule(steps: int, last: float) -> Tensor:
    sigmas = torch.exp(torch.linspace(math.log(TOP), math.log(last), steps + 1, dtype=torch.float64))
    return sigmas


def error(name: str, steps: int) -> float:
    """Return the distance from the flow's exact end point at sigma 0.1."""
    x = TOP * draw(0, 1, 4, 8, 8).double()
    got = SAMPLERS[name](Run(denoiser, schedule(steps, 0.1), seed=0), x)
    exact = MEAN + (x - MEAN) * math.sqrt((STD**2 + 0.1**2) / (STD**2 + TOP**2))
    return float((got - exact).abs().max())


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_deterministic_samplers_converge_at_their_order(name: str, order: int) -> None:
    coarse, fine = error(name, 64), error(name, 128)
    assert fine < 0.02
    assert math.log2(coarse / fine) > order - 0.25


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("last", [0.0, 0.5])
def test_stochastic_samplers_end_in_the_right_distribution(name: str, last: float) -> None:
    sigmas = schedule(80, max(last, 0.02)).float()
    if last == 0.0:
        sigmas = torch.cat([sigmas, torch.zeros(1)])
    x = math.sqrt(TOP**2 + STD**2) * draw(0, 1, 4, 100, 100) + MEAN
    got = SAMPLERS[name](Run(lambda x, s: denoiser(x, s), sigmas, seed=5), x)
    assert float(got.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(got.std()) == pytest.approx(math.sqrt(STD**2 + last**2), rel=0.04)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_seed_alone_decides(name: str) -> None:
    sigmas = torch.cat([schedule(6, 0.1).float(), torch.zeros(1)])
    x = TOP * draw(0, 1, 4, 8, 8)
    first, again, other = (
        SAMPLERS[name](Run(denoiser, sigmas, seed=seed, sampling=discrete_sampling()), x.clone()) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name in ORDERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_step_is_reported_once_with_its_input(name: str) -> None:
    seen: list[int] = []

    def callback(i: int, denoised: Tensor, x: Tensor) -> None:
        assert denoised.shape == x.shape == (1, 4, 8, 8)
        seen.append(i)

    sigmas = torch.cat([schedule(6, 0.1).float(), torch.zeros(1)])
    SAMPLERS[name](Run(denoiser, sigmas, 0, callback, discrete_sampling()), TOP * draw(0, 1, 4, 8, 8))
    assert seen == list(range(7))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2])
def test_very_few_steps_end_at_a_denoised_latent(name: str, steps: int) -> None:
    sigmas = torch.cat([schedule(2, 0.5).float()[:steps], torch.zeros(1)])
    got = SAMPLERS[name](Run(denoiser, sigmas, 0, None, discrete_sampling()), TOP * draw(0, 1, 4, 8, 8))
    assert float((got - MEAN).abs().max()) < 4 * STD


def test_lcm_alternates_jumps_and_noise() -> None:
    sigmas, x = torch.tensor([10.0, 2.0, 0.0]), TOP * draw(0, 1, 4, 8, 8)
    noise = draw(8, 1, 4, 8, 8)
    wanted = denoiser(denoiser(x, sigmas[:1]) + 2.0 * noise, sigmas[1:2])
    torch.testing.assert_close(SAMPLERS["lcm"](Run(denoiser, sigmas, seed=7), x), wanted)


def test_cpu_noise_does_not_repeat_the_start_noise() -> None:
    x = torch.zeros(1, 4, 8, 8)
    source = gaussian_noise(x, 7)
    assert torch.equal(source(x, x), draw(8, 1, 4, 8, 8))
    assert not torch.equal(source(x, x), draw(8, 1, 4, 8, 8))


def test_brownian_noise_is_normal_and_independent_between_steps() -> None:
    sigmas = schedule(3, 0.5).float()
    source = brownian_noise(torch.zeros(1, 4, 100, 100), sigmas, 3)
    steps = torch.stack([source(a, b).flatten() for a, b in zip(sigmas, sigmas[1:], strict=False)])
    torch.testing.assert_close(steps @ steps.T / steps.shape[1], torch.eye(3), rtol=0, atol=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_interruption_stops_at_the_next_step(name: str) -> None:
    seen: list[int] = []

    def callback(i: int, denoised: Tensor, x: Tensor) -> None:
        seen.append(i)
        if i == 2:
            model_management.interrupt_current_processing()

    run = Run(denoiser, schedule(8, 0.1).float(), 0, callback, discrete_sampling())
    with pytest.raises(model_management.InterruptProcessingException):
        SAMPLERS[name](run, TOP * draw(0, 1, 4, 8, 8))
    assert seen == [0, 1, 2]
    assert not model_management.processing_interrupted()
