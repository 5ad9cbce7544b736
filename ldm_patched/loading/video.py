"""Load Stable Video Diffusion (Blattmann et al. 2023, arXiv 2311.15127): a video UNet, CLIP vision and a video VAE."""

from __future__ import annotations

import os

import torch

from ..files.checkpoint import Checkpoint, CheckpointError
from ..files.model_file import model_file, report_unused
from ..files.weights import WeightView, under
from ..images.vae import VAE
from ..modules.model_patcher import ModelPatcher
from ..text.clip_vision import ClipVision, build_clip_vision, vision_from_open_clip
from . import sd
from .model_detection import UNET_PREFIXES, VAE_PREFIXES

VISION_PREFIX = "conditioner.embedders.0.open_clip.model.visual."


def load_image_only_checkpoint(
    path: str | os.PathLike[str], dtype: torch.dtype | None = None
) -> tuple[ModelPatcher, ClipVision, VAE]:
    """Load the UNet, image encoder and VAE of a single safetensors file whose prompt is an image.

    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with model_file(path) as file:
        unet, vae = sd.find_unet(file, UNET_PREFIXES[:2]), sd.find_vae(file, VAE_PREFIXES[:2])
        vision = find_clip_vision(file)
        loaded = sd.build_unet(unet, sd.config_of(unet, file), dtype), build_clip_vision(vision), sd.build_vae(vae)
        report_unused(file)
    return loaded


def find_clip_vision(file: Checkpoint) -> WeightView:
    """Return the image encoder of a checkpoint in the Hugging Face layout."""
    key = f"{VISION_PREFIX}conv1.weight"
    if key not in file:
        found = ", ".join(sorted(file)[:3])
        raise CheckpointError(f"no CLIP vision model found: expected {key}, found {found}, ...")
    return vision_from_open_clip(under(file, VISION_PREFIX))
