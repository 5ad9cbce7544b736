"""The small UNet of all tests, and the numbers they draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Two levels, of one and of two transformers: every kind of block is there, and sampling takes milliseconds
UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 2],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 2, 2],
    "use_spatial_transformer": True,
    "context_dim": 16,
    "num_heads": 4,
    "num_head_channels": -1,
    "legacy": False,
}
# One level
FLAT: dict[str, Any] = {
    **UNET,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
}


def draw(seed: int, *shape: int) -> Tensor:
    """Return normal numbers of that shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
