"""A model small enough to sample with in a unit test."""

from __future__ import annotations

from typing import Any

import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig

from ..unets import FLAT, draw

UNET: dict[str, Any] = FLAT | {"num_heads": 8}


def patcher(family: str = "sd1", concat: str | None = None, **changes: Any) -> ModelPatcher:
    torch.manual_seed(0)
    config = ModelConfig(family, UNET | changes, concat=concat)
    return ModelPatcher(MODEL_CLASSES[family](config, operations=plain), "cpu", "cpu")


def conditioning(seed: int = 1, tokens: int = 7, **entries: Any) -> list[list[Any]]:
    return [[draw(seed, 1, tokens, 16), entries]]
