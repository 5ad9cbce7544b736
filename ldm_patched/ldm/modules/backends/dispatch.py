"""The default attention functions, and the choice of one for a device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....modules import model_management
from .basic import attention_basic
from .cpu_tiled import attention_cpu_tiled, tiles_are_faster
from .pytorch import attention_pytorch
from .sub_quad import attention_sub_quad
from .wrapper import AttentionFunction, wrap_attn

__all__ = ["optimized_attention", "optimized_attention_for_device", "optimized_attention_masked", "wrap_attn"]


def optimized_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Compute attention with the fastest exact function for these tensors: (b, n, heads * d) in and out."""
    if q.dtype == torch.bfloat16 and _tiles(q, k, v, heads, args[0] if args else kwargs.get("attn_precision")):
        return attention_cpu_tiled(q, k, v, heads, mask, *args, **kwargs)
    return attention_pytorch(q, k, v, heads, mask, *args, **kwargs)


def _tiles(q: Tensor, k: Tensor, v: Tensor, heads: int, precision: torch.dtype | None) -> bool:
    """Tell whether tiles on a CPU are the fastest for a call in bfloat16, which may come in either layout."""
    if q.device.type != "cpu" or precision == torch.float32:
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    n_q, n_k = q.shape[-2], k.shape[-2]
    return tiles_are_faster(q.shape[0] * heads * n_q * n_k, n_q, n_k)


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
