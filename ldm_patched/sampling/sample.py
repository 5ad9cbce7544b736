"""Start noise, and sampling from a latent as the nodes pass it around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..modules.model_patcher import ModelPatcher
from . import samplers
from .cond_batch import Conditioning
from .conds import repeat_to_batch_size
from .sampler import ProgressCallback


def prepare_noise(latent_image: Tensor, seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """Draw noise in a latent's shape from the CPU's own generator.

    Args:
        batch_index: for each image the place in a larger batch it was drawn at; equal places get equal noise.
    """
    generator = torch.manual_seed(seed)
    shape = list(latent_image.shape)
    if batch_index is None:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(latent_image.dtype)
    drawn = [torch.randn([1, *shape[1:]], generator=generator) for _ in range(max(batch_index) + 1)]
    return torch.cat([drawn[i] for i in batch_index]).to(latent_image.dtype)


def fix_empty_latent_channels(model: ModelPatcher, latent_image: Tensor) -> Tensor:
    """Give an all-zero latent the channel count of the model."""
    channels = model.get_model_object("latent_format").latent_channels
    if latent_image.shape[1] == channels or torch.count_nonzero(latent_image) > 0:
        return latent_image
    return repeat_to_batch_size(latent_image.transpose(0, 1), channels).transpose(0, 1)


def common_ksampler(
    model: ModelPatcher,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent: dict[str, Any],
    denoise: float = 1.0,
    disable_noise: bool = False,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    callback: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Run a KSampler node: take a LATENT dict and return a new one with the sampled latents."""
    image = fix_empty_latent_channels(model, latent["samples"])
    noise = torch.zeros_like(image) if disable_noise else prepare_noise(image, seed, latent.get("batch_index"))
    samples = samplers.sample(
        model,
        noise,
        positive,
        negative,
        cfg,
        steps,
        sampler_name,
        scheduler,
        denoise=denoise,
        start_step=start_step,
        last_step=last_step,
        force_full_denoise=force_full_denoise,
        noise_mask=latent.get("noise_mask"),
        seed=seed,
        callback=callback,
        latent_image=image,
    )
    return {**latent, "samples": samples}
