"""A model small enough to sample with in a unit test."""

from __future__ import annotations

from typing import Any

import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig

UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1],
    "use_spatial_transformer": True,
    "context_dim": 16,
    "num_heads": 8,
    "num_head_channels": -1,
    "legacy": False,
}


def patcher(family: str = "sd1", concat: str | None = None, **changes: Any) -> ModelPatcher:
    torch.manual_seed(0)
    config = ModelConfig(family, UNET | changes, concat=concat)
    return ModelPatcher(MODEL_CLASSES[family](config, operations=plain), "cpu", "cpu")


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditioning(seed: int = 1, tokens: int = 7, **entries: Any) -> list[list[Any]]:
    return [[draw(seed, 1, tokens, 16), entries]]
