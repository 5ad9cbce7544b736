"""A sampler by name, in the form a guider runs: noise the latent, integrate, keep what a mask keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from . import k_sampling
from .model_base import BaseModel
from .uni_pc import uni_pc

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

ProgressCallback = Callable[[int, Tensor, Tensor, int], None]


class Guider(Protocol):
    """What a sampler runs: the model, and its guided prediction."""

    inner_model: BaseModel

    def __call__(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """Return the denoised latent for x (b, c, h, w) at timestep (b,), which holds sigmas."""


class MaskedDenoiser:
    """The guider as a denoiser that keeps the masked-out part of a latent where it was."""

    def __init__(self, guider: Guider, sigmas: Tensor, noise: Tensor, latent_image: Tensor) -> None:
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
    """A sampler by name with its options, in the form a guider runs."""

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.options = dict(options or {})
        self.sampler_function = SAMPLERS[name]

    def max_denoise(self, guider: Guider, sigmas: Tensor) -> bool:
        """Return whether the schedule starts at the model's largest sigma."""
        top, first = float(guider.inner_model.model_sampling.sigma_max), float(sigmas[0])
        return math.isclose(top, first, rel_tol=1e-05) or first > top

    def sample(
        self,
        guider: Guider,
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
        latent: Tensor = sampling.inverse_noise_scaling(sigmas[-1], self.sampler_function(run, start, **self.options))
        return latent

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
