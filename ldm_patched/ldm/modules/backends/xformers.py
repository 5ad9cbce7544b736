"""Memory-efficient attention of the xformers library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....modules import model_management
from .pytorch import attention_pytorch
from .shapes import aligned_bias, from_heads, repeat_kv, to_heads, to_mask, zero_dead_rows
from .wrapper import wrap_attn


@wrap_attn
def attention_xformers(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Compute attention with xformers, or with torch where xformers is broken: (b, n, heads * d) in and out."""
    if model_management.BROKEN_XFORMERS and q.shape[0] * heads > model_management.BROKEN_XFORMERS_LIMIT:
        return attention_pytorch(q, k, v, heads, mask, attn_precision, skip_reshape, skip_output_reshape, **kwargs)
    import xformers.ops

    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    full = None if mask is None else to_mask(mask, q, k.shape[2])
    out = xformers.ops.memory_efficient_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_bias=None if full is None else aligned_bias(full, q, k.shape[2]),
        scale=kwargs.get("scale"),
    )  # (b, n, h, d)
    return from_heads(zero_dead_rows(out.transpose(1, 2), full), skip_output_reshape)
