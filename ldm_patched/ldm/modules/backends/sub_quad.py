"""Attention in chunks of queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..sub_quadratic_attention import efficient_dot_product_attention
from .basic import score_dtype
from .shapes import from_heads, repeat_kv, to_heads, to_mask
from .wrapper import wrap_attn


@wrap_attn
def attention_sub_quad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Compute attention in chunks chosen by free memory: (b, n, heads * d) in and out."""
    q, k, v = to_heads(query, key, value, heads, skip_reshape, kwargs.get("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    out = efficient_dot_product_attention(
        q,
        k.transpose(-1, -2),
        v,
        upcast_attention=score_dtype(q, attn_precision) != q.dtype,
        mask=None if mask is None else to_mask(mask, q, k.shape[2]),
        scale=kwargs.get("scale"),
    )
    return from_heads(out, skip_output_reshape)
