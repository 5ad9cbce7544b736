"""The attention functions that the networks call.

Networks look these names up here when they attend, so that an assignment to one of them, here or in
`ldm.modules.attention`, takes effect everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....modules import model_management
from . import registry
from .basic import attention_basic
from .call import AttentionCall
from .pytorch import attention_pytorch, pytorch
from .sub_quad import attention_sub_quad
from .wrapper import AttentionFunction, wrap_attn

__all__ = ["optimized_attention", "optimized_attention_for_device", "optimized_attention_masked", "wrap_attn"]


def optimized_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
    """Compute attention with the function that `auto` chooses: (b, n, heads * d) in and out."""
    if registry.first(q, k, heads) is pytorch:  # it runs every call: no need to describe this one
        return attention_pytorch(q, k, v, heads, *args, **kwargs)
    call = AttentionCall.of(q, k, v, heads, *args, **kwargs)
    return registry.select(call).backend.function(q, k, v, heads, *args, **kwargs)


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
