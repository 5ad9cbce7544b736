"""The default attention functions, and the choice of one for a device."""

from __future__ import annotations

import torch

from ....modules import model_management
from .basic import attention_basic
from .pytorch import attention_pytorch
from .sub_quad import attention_sub_quad
from .wrapper import AttentionFunction, wrap_attn

__all__ = ["optimized_attention", "optimized_attention_for_device", "optimized_attention_masked", "wrap_attn"]

optimized_attention = attention_pytorch
optimized_attention_masked = optimized_attention


def optimized_attention_for_device(
    device: torch.device | str, mask: bool = False, small_input: bool = False
) -> AttentionFunction:
    """Return the attention function for `device`: the one with the least overhead for a small input, the one with the
    least memory on a CPU, else the default."""
    if small_input:
        return attention_pytorch if model_management.pytorch_attention_enabled() else attention_basic
    if model_management.is_device_cpu(device):
        return attention_sub_quad
    return optimized_attention_masked if mask else optimized_attention
