"""Samplers: ways to integrate from noise to a latent, in the notation of Karras et al. (2022).

Each sampler is a function `(run, x) -> x` of a `Run` and the noisy latent x (b, c, h, w) at the first sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modules import model_management
from .brownian import BrownianTree
from .model_sampling import EPS

Denoiser = Callable[[Tensor, Tensor], Tensor]
StepCallback = Callable[[int, Tensor, Tensor], None]
NoiseSource = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[..., Tensor]  # of a Run and a latent, and of options by name


@dataclass
class Run:
    """What every sampler needs: the denoiser `(x, sigma (b,)) -> x0`, the schedule, and the seed of added noise."""

    model: Denoiser
    sigmas: Tensor
    seed: int | None = None
    callback: StepCallback | None = None
    sampling: EPS | None = None

    def steps(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Walk over `(index, sigma, next sigma)`, stopping where the user interrupts."""
        for i in range(len(self.sigmas) - 1):
            model_management.throw_exception_if_processing_interrupted()
            yield i, self.sigmas[i], self.sigmas[i + 1]

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Evaluate the model at one sigma."""
        return self.model(x, sigma * x.new_ones(x.shape[0]))

    def first(self, i: int, x: Tensor, sigma: Tensor) -> Tensor:
        """Evaluate the model at the start of step `i` and report the step."""
        denoised = self.denoise(x, sigma)
        if self.callback is not None:
            self.callback(i, denoised, x)
        return denoised


def slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """Return dx/dsigma of the probability flow."""
    return (x - denoised) / sigma


def ancestral_split(sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Split a step into the sigma to go down to and the noise to add back, so that the sum has the next variance."""
    up = torch.minimum(sigma_next, eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
    return (sigma_next**2 - up**2) ** 0.5, up


def gaussian_noise(x: Tensor, seed: int | None) -> NoiseSource:
    """Return a source of fresh noise in the shape of x, from a generator of its own when there is a seed."""
    generator = None
    if seed is not None:
        # on the CPU the start noise used this seed already
        generator = torch.Generator(device=x.device).manual_seed(seed + (x.device.type == "cpu"))

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    return noise


def brownian_noise(x: Tensor, sigmas: Tensor, seed: int | None) -> NoiseSource:
    """Return increments of one Brownian path over sigma, so that the noise does not depend on the step count."""
    low, high = float(sigmas[sigmas > 0].min()), float(sigmas.max())
    entropy = int(torch.randint(0, 2**63 - 1, ())) if seed is None else seed
    tree = BrownianTree(low, high, x, entropy)

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        increment = tree(float(sigma_next), float(sigma)) / (sigma - sigma_next).sqrt().cpu()
        return -increment.to(x.device)

    return noise


# Deterministic


def sample_euler(run: Run, x: Tensor) -> Tensor:
    """Follow the slope at the start of each step."""
    for i, sigma, sigma_next in run.steps():
        denoised = run.first(i, x, sigma)
        x = x + slope(x, sigma, denoised) * (sigma_next - sigma)
    return x


def sample_heun(run: Run, x: Tensor) -> Tensor:
    """Follow the mean of the slopes at both ends of each step (Karras et al., algorithm 2)."""
    for i, sigma, sigma_next in run.steps():
        d = slope(x, sigma, run.first(i, x, sigma))
        end = x + d * (sigma_next - sigma)
        if sigma_next > 0:
            d_end = slope(end, sigma_next, run.denoise(end, sigma_next))
            end = x + (d + d_end) / 2 * (sigma_next - sigma)
        x = end
    return x


def sample_dpm_2(run: Run, x: Tensor) -> Tensor:
    """Follow the slope at the geometric middle of each step."""
    for i, sigma, sigma_next in run.steps():
        d = slope(x, sigma, run.first(i, x, sigma))
        x = x + _middle_slope(run, x, d, sigma, sigma_next) * (sigma_next - sigma)
    return x


def _middle_slope(run: Run, x: Tensor, d: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    if sigma_next == 0:
        return d
    middle = sigma.log().lerp(sigma_next.log(), 0.5).exp()
    x_middle = x + d * (middle - sigma)
    return slope(x_middle, middle, run.denoise(x_middle, middle))


def sample_dpmpp_2m(run: Run, x: Tensor) -> Tensor:
    """DPM-Solver++ (2M): two-step multistep in log sigma (Lu et al., 2022)."""
    previous: Tensor | None = None
    for i, sigma, sigma_next in run.steps():
        denoised = run.first(i, x, sigma)
        target = denoised
        if previous is not None and sigma_next > 0:
            ratio = (run.sigmas[i - 1].log() - sigma.log()) / (sigma.log() - sigma_next.log())
            target = denoised + (denoised - previous) / (2 * ratio)
        x = target + (sigma_next / sigma) * (x - target)
        previous = denoised
    return x


# Stochastic


def sample_euler_ancestral(run: Run, x: Tensor, eta: float = 1.0, s_noise: float = 1.0) -> Tensor:
    """Take an Euler step past the next sigma and add noise back up to it."""
    noise = gaussian_noise(x, run.seed)
    for i, sigma, sigma_next in run.steps():
        denoised = run.first(i, x, sigma)
        down, up = ancestral_split(sigma, sigma_next, eta)
        x = x + slope(x, sigma, denoised) * (down - sigma)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * s_noise * up
    return x


def sample_dpm_2_ancestral(run: Run, x: Tensor) -> Tensor:
    """Take a midpoint step past the next sigma and add noise back up to it."""
    noise = gaussian_noise(x, run.seed)
    for i, sigma, sigma_next in run.steps():
        d = slope(x, sigma, run.first(i, x, sigma))
        down, up = ancestral_split(sigma, sigma_next)
        x = x + _middle_slope(run, x, d, sigma, down) * (down - sigma)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * up
    return x


def sample_dpmpp_2s_ancestral(run: Run, x: Tensor) -> Tensor:
    """DPM-Solver++ (2S): one evaluation half way in log sigma, past the next sigma, then noise back up."""
    noise = gaussian_noise(x, run.seed)
    for i, sigma, sigma_next in run.steps():
        denoised = run.first(i, x, sigma)
        down, up = ancestral_split(sigma, sigma_next)
        if down > 0:
            middle = (sigma * down).sqrt()
            x_middle = denoised + (middle / sigma) * (x - denoised)
            denoised = run.denoise(x_middle, middle)
        x = denoised + (down / sigma) * (x - denoised)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * up
    return x


def sample_dpmpp_sde(run: Run, x: Tensor) -> Tensor:
    """DPM-Solver++ (SDE): the two-stage solver with noise from a Brownian path added in both stages."""
    if len(run.sigmas) < 2:
        return x
    noise = brownian_noise(x, run.sigmas, run.seed)
    for i, sigma, sigma_next in run.steps():
        denoised = run.first(i, x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        middle = (sigma.log() + 0.5 * (sigma_next.log() - sigma.log())).exp()
        down, up = ancestral_split(sigma, middle)
        x_middle = denoised + (down / sigma) * (x - denoised) + noise(sigma, middle) * up
        denoised = run.denoise(x_middle, middle)
        down, up = ancestral_split(sigma, sigma_next)
        x = denoised + (down / sigma) * (x - denoised) + noise(sigma, sigma_next) * up
    return x


def sample_dpmpp_2m_sde(run: Run, x: Tensor) -> Tensor:
    """DPM-Solver++ (2M SDE), midpoint form, with noise from a Brownian path."""
    if len(run.sigmas) < 2:
        return x
    noise = brownian_noise(x, run.sigmas, run.seed)
    previous: Tensor | None = None
    for i, sigma, sigma_next in run.steps():
        denoised = run.first(i, x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        h = sigma.log() - sigma_next.log()
        gain = -(-2 * h).expm1()
        x = (sigma_next / sigma) * (-h).exp() * x + gain * denoised
        if previous is not None:
            ratio = (run.sigmas[i - 1].log() - sigma.log()) / h
            x = x + gain * (denoised - previous) / (2 * ratio)
        x = x + noise(sigma, sigma_next) * sigma_next * gain.sqrt()
        previous = denoised
    return x


def sample_lcm(
    run: Run, x: Tensor, s_noise: float = 1.0, s_noise_end: float | None = None, noise_clip_std: float = 0.0
) -> Tensor:
    """Jump to the predicted latent and add the next level's noise, as consistency models are used.

    The noise is multiplied by what goes from `s_noise` in the first step to `s_noise_end` in the last, and cut off at
    `noise_clip_std` deviations, or nowhere for 0.
    """
    noise, last = gaussian_noise(x, run.seed), max(1, len(run.sigmas) - 2)
    sampling = run.sampling or EPS()
    for i, sigma, sigma_next in run.steps():
        x = run.first(i, x, sigma)
        if sigma_next > 0:
            drawn = noise(sigma, sigma_next)
            if noise_clip_std > 0:
                edge = noise_clip_std * drawn.std()
                drawn = drawn.clamp(-edge, edge)
            factor = s_noise + ((s_noise if s_noise_end is None else s_noise_end) - s_noise) * i / last
            x = sampling.noise_scaling(sigma_next, drawn * factor, x)
    return x
