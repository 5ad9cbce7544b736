"""Read the configuration of a CLIP model from its state dict's keys and shapes."""

from __future__ import annotations

import math
from typing import Any

from ..files.checkpoint import CheckpointError
from ..files.shapes import Shapes, count_blocks, some_keys


def detect_clip(shapes: Shapes) -> dict[str, Any]:
    """Return CLIPTextModel's configuration from keys that start with `text_model.`."""
    token, position = (shapes.get(f"text_model.embeddings.{k}_embedding.weight") for k in ("token", "position"))
    if token is None or position is None:
        raise CheckpointError(f"no CLIP text model found: expected text_model.embeddings, found {some_keys(shapes)}")
    vocabulary, width = token
    head_width = 64 if width >= 512 else 32
    config = {
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_blocks(shapes, "text_model.encoder.layers."),
        "num_attention_heads": width // head_width,
        "hidden_act": "gelu" if width in (1024, 1280) else "quick_gelu",
        "max_position_embeddings": position[0],
        "layer_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "eos_token_id": 49407 if vocabulary == 49408 else 1,
    }
    projection = shapes.get("text_projection.weight")
    return config if projection is None else {**config, "projection_dim": projection[0]}


def detect_clip_vision(shapes: Shapes) -> dict[str, Any]:
    """Return CLIPVisionModel's configuration from keys that start with `vision_model.`."""
    patch = shapes.get("vision_model.embeddings.patch_embedding.weight")
    position = shapes.get("vision_model.embeddings.position_embedding.weight")
    if patch is None or position is None:
        raise CheckpointError(
            f"no CLIP vision model found: expected vision_model.embeddings, found {some_keys(shapes)}"
        )
    width = patch[0]
    config = {
        "hidden_size": width,
        "intermediate_size": shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_blocks(shapes, "vision_model.encoder.layers."),
        "num_attention_heads": 16 if width >= 1024 else width // 64,
        "hidden_act": "quick_gelu" if width in (768, 1024) else "gelu",
        "num_channels": patch[1],
        "patch_size": patch[2],
        "image_size": math.isqrt(position[0] - 1) * patch[2],
        "layer_norm_eps": 1e-5,
    }
    projection = shapes.get("visual_projection.weight")
    return config if projection is None else {**config, "projection_dim": projection[0]}
