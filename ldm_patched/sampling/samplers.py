"""Guided sampling: the loop around a sampler that a KSampler node runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..modules import model_management
from ..modules.model_patcher import ModelPatcher
from . import k_sampling
from .cond_batch import Conditioning, calc_cond_batch
from .guidance import CFGGuider, ProgressCallback
from .schedulers import SCHEDULER_NAMES, calculate_sigmas
from .uni_pc import uni_pc

__all__ = [
    "SAMPLER_NAMES",
    "SCHEDULER_NAMES",
    "CFGGuider",
    "KSampler",
    "calc_cond_batch",
    "calculate_sigmas",
    "sample",
    "sampler_object",
    "sampler_sigmas",
]

SAMPLERS: dict[str, k_sampling.Sampler] = {
    "euler": k_sampling.sample_euler,
    "euler_ancestral": k_sampling.sample_euler_ancestral,
    "heun": k_sampling.sample_heun,
    "dpm_2": k_sampling.sample_dpm_2,
    "dpm_2_ancestral": k_sampling.sample_dpm_2_ancestral,
    "dpmpp_2s_ancestral": k_sampling.sample_dpmpp_2s_ancestral,
    "dpmpp_sde": k_sampling.sample_dpmpp_sde,
    "dpmpp_2m": k_sampling.sample_dpmpp_2m,
    "dpmpp_2m_sde": k_sampling.sample_dpmpp_2m_sde,
    "lcm": k_sampling.sample_lcm,
    "ddim": k_sampling.sample_euler,
    "uni_pc": uni_pc("bh1"),
    "uni_pc_bh2": uni_pc("bh2"),
}
SAMPLER_NAMES: tuple[str, ...] = tuple(SAMPLERS)

# These gain nothing from the last sigma before zero, which is very close to it.
DISCARD_PENULTIMATE_SIGMA = frozenset({"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"})


# One run


class MaskedDenoiser:
    """The guider as a denoiser that keeps the masked-out part of a latent where it was."""

    def __init__(self, guider: CFGGuider, sigmas: Tensor, noise: Tensor, latent_image: Tensor) -> None:
        self.inner_model = guider
        self.sigmas = sigmas
        self.noise = noise
        self.latent_image = latent_image

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        denoise_mask: Tensor | None = None,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Denoise x (b, c, h, w) at sigma (b,); a mask of 1 is free, of 0 is kept."""
        options = model_options or {}
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=options, seed=seed)
        if "denoise_mask_function" in options:
            extra = {"model": self.inner_model, "sigmas": self.sigmas}
            denoise_mask = options["denoise_mask_function"](sigma, denoise_mask, extra_options=extra)
        kept = self.inner_model.inner_model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=self.noise, latent_image=self.latent_image, denoise_mask=denoise_mask
        )
        x = x * denoise_mask + kept * (1.0 - denoise_mask)
        out = self.inner_model(x, sigma, model_options=options, seed=seed)
        return out * denoise_mask + self.latent_image * (1.0 - denoise_mask)


class KSampler:
    """A sampler by name, in the form a guider runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sampler_function = SAMPLERS[name]

    def max_denoise(self, guider: CFGGuider, sigmas: Tensor) -> bool:
        """Tell whether the schedule starts at the model's largest sigma."""
        top, first = float(guider.inner_model.model_sampling.sigma_max), float(sigmas[0])
        return math.isclose(top, first, rel_tol=1e-05) or first > top

    def sample(
        self,
        guider: CFGGuider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: ProgressCallback | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Noise the latent to the first sigma and integrate to the last."""
        sampling = guider.inner_model.model_sampling
        seed = extra_args.get("seed")
        model = MaskedDenoiser(guider, sigmas, self._mask_noise(noise, seed), latent_image)
        start = sampling.noise_scaling(sigmas[0], noise, latent_image, self.max_denoise(guider, sigmas))
        total = len(sigmas) - 1

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return model(x, sigma, denoise_mask=denoise_mask, **extra_args)

        def report(i: int, denoised: Tensor, x: Tensor) -> None:
            if callback is not None:
                callback(i, denoised, x, total)

        run = k_sampling.Run(denoise, sigmas, seed, report, sampling)
        return sampling.inverse_noise_scaling(sigmas[-1], self.sampler_function(run, start))

    def _mask_noise(self, noise: Tensor, seed: int | None) -> Tensor:
        if self.name != "ddim":
            return noise
        generator = torch.manual_seed((41 if seed is None else seed) + 1)
        return torch.randn(noise.shape, generator=generator).to(noise)


def sampler_object(name: str) -> KSampler:
    """Return a sampler by name."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; known are {', '.join(SAMPLER_NAMES)}")
    return KSampler(name)


# By name


def sampler_sigmas(
    model: ModelPatcher, sampler_name: str, scheduler: str, steps: int, denoise: float | None = None
) -> Tensor:
    """Return the sigmas a sampler walks through for a number of steps and a share of denoising."""
    if denoise is not None and denoise <= 0.0:
        return torch.zeros(0)
    full = denoise is None or denoise > 0.9999
    count = steps if full else int(steps / (denoise or 1.0))
    extra = sampler_name in DISCARD_PENULTIMATE_SIGMA
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, count + extra)
    if extra:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return sigmas if full else sigmas[-(steps + 1) :]


def sample(
    model: ModelPatcher,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
    steps: int,
    sampler_name: str,
    scheduler: str,
    denoise: float | None = None,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    noise_mask: Tensor | None = None,
    seed: int | None = None,
    callback: ProgressCallback | None = None,
    *,
    latent_image: Tensor | None = None,
    sigmas: Tensor | None = None,
) -> Tensor:
    """Sample latents (b, 4, h, w) on the CPU, in the VAE's scale, as a KSampler node does.

    Args:
        denoise: share of the schedule that is run, from its end.
        start_step, last_step: run only a part of the schedule; with `force_full_denoise` the part ends at zero noise.
        noise_mask: 1 where the latent is sampled, 0 where it is kept.
        callback: called as `(step, denoised, x, total_steps)`.
    """
    sampler = sampler_object(sampler_name)
    latent = torch.zeros_like(noise) if latent_image is None else latent_image
    if sigmas is None:
        sigmas = sampler_sigmas(model, sampler_name, scheduler, steps, denoise)
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is not None:
        if start_step >= len(sigmas) - 1:
            return latent
        sigmas = sigmas[start_step:]
    return sample_custom(model, noise, positive, negative, cfg, sampler, sigmas, latent, noise_mask, seed, callback)


def sample_custom(
    model: ModelPatcher,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
    sampler: KSampler,
    sigmas: Tensor,
    latent_image: Tensor,
    noise_mask: Tensor | None = None,
    seed: int | None = None,
    callback: ProgressCallback | None = None,
) -> Tensor:
    """Sample latents (b, 4, h, w) on the CPU with a given sampler and sigmas; without sigmas nothing changes."""
    if len(sigmas) == 0:
        return latent_image
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    with torch.no_grad():
        samples = guider.sample(noise, latent_image, sampler, sigmas, noise_mask, callback, seed=seed)
    return samples.to(model_management.intermediate_device())
