"""Attention in slices of the queries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .basic import attend, score_dtype
from .shapes import from_heads, repeat_kv, to_heads, to_mask
from .slices import fill_slices, rows_within_budget
from .wrapper import wrap_attn


@wrap_attn
def attention_split(
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
    """Compute attention a slice of queries at a time, as many as free memory allows: (b, n, heads * d) in and out."""
    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    full = None if mask is None else to_mask(mask, q, k.shape[2])
    scale = kwargs.get("scale")
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    dtype = score_dtype(q, attn_precision)

    def part(rows: slice) -> Tensor:
        bias = full if full is None or full.shape[2] == 1 else full[:, :, rows]
        return attend(q[:, :, rows], k, v, factor, bias, dtype)

    out = fill_slices(q.new_empty(*q.shape[:-1], v.shape[-1]), rows_within_budget(q, k.shape[2], dtype), part)
    return from_heads(out, skip_output_reshape)
