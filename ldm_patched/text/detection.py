"""Read the configuration of a CLIP model from its state dict's keys and shapes."""

from __future__ import annotations

import math
from typing import Any

from ..files.checkpoint import CheckpointError
from ..files.shapes import Shapes, count_blocks, side, some_keys


def detect_clip(shapes: Shapes) -> dict[str, Any]:
    """Return CLIPTextModel's configuration from keys that start with `text_model.`."""
    token, position = (f"text_model.embeddings.{k}_embedding.weight" for k in ("token", "position"))
    if token not in shapes or position not in shapes:
        raise CheckpointError(f"no CLIP text model found: expected text_model.embeddings, found {some_keys(shapes)}")
    vocabulary, width = side(shapes, token), side(shapes, token, 1)
    head_width = 64 if width >= 512 else 32
    config = {
        "hidden_size": width,
        "intermediate_size": side(shapes, "text_model.encoder.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": count_blocks(shapes, "text_model.encoder.layers."),
        "num_attention_heads": width // head_width,
        "hidden_act": "gelu" if width in (1024, 1280) else "quick_gelu",
        "max_position_embeddings": side(shapes, position),
        "layer_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "eos_token_id": 49407 if vocabulary == 49408 else 1,
    }
    return config | _projection(shapes, "text_projection.weight")


def detect_clip_vision(shapes: Shapes) -> dict[str, Any]:
    """Return CLIPVisionModel's configuration from keys that start with `vision_model.`."""
    patch, position = (f"vision_model.embeddings.{k}_embedding.weight" for k in ("patch", "position"))
    if patch not in shapes or position not in shapes:
        raise CheckpointError(
            f"no CLIP vision model found: expected vision_model.embeddings, found {some_keys(shapes)}"
        )
    width, pixels = side(shapes, patch), side(shapes, patch, 2)
    config = {
        "hidden_size": width,
        "intermediate_size": side(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": count_blocks(shapes, "vision_model.encoder.layers."),
        "num_attention_heads": 16 if width >= 1024 else width // 64,
        "hidden_act": "quick_gelu" if width in (768, 1024) else "gelu",
        "num_channels": side(shapes, patch, 1),
        "patch_size": pixels,
        "image_size": math.isqrt(side(shapes, position) - 1) * pixels,
        "layer_norm_eps": 1e-5,
    }
    return config | _projection(shapes, "visual_projection.weight")


def _projection(shapes: Shapes, key: str) -> dict[str, int]:
    return {"projection_dim": side(shapes, key)} if key in shapes else {}
