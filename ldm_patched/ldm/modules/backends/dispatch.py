"""The default attention functions, and the choice of one for a device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....modules import model_management
from .basic import attention_basic
from .pytorch import attention_pytorch
from .split import attention_split, split_is_faster
from .sub_quad import attention_sub_quad
from .wrapper import AttentionFunction, wrap_attn

__all__ = ["optimized_attention", "optimized_attention_for_device", "optimized_attention_masked", "wrap_attn"]


def optimized_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Compute attention with the fastest exact function for these tensors: (b, n, heads * d) in and out."""
    precision = args[0] if args else kwargs.get("attn_precision")
    plain = mask is None and precision is None
    split = plain and split_is_faster(q.device.type, q.dtype, q.shape[-2], k.shape[-2])
    return (attention_split if split else attention_pytorch)(q, k, v, heads, mask, *args, **kwargs)


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
