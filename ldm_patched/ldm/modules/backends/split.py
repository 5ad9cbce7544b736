"""Attention in slices of the queries."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from .basic import attend, score_dtype
from .shapes import from_heads, repeat_kv, to_heads, to_mask
from .slices import fill_slices, rows_within_budget
from .wrapper import wrap_attn

# Scores of one head that stay in a core's cache; on a CPU the products of bfloat16 are fast, and memory is not.
HEAD_SCORES = 4 * 1024 * 1024
FEW_TOKENS = 256  # queries or keys below which one fused call beats a loop over the heads


def split_is_faster(device: str, dtype: torch.dtype, n_q: int, n_k: int) -> bool:
    """Tell whether slices beat torch's fused kernel, as they do in bfloat16 on a CPU for all but short inputs."""
    return device == "cpu" and dtype == torch.bfloat16 and min(n_q, n_k) >= FEW_TOKENS


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
    if mask is None and attn_precision is None and split_is_faster(q.device.type, q.dtype, q.shape[2], k.shape[2]):
        return from_heads(_head_by_head(q, k, v, factor), skip_output_reshape)
    dtype = score_dtype(q, attn_precision)

    def part(rows: slice) -> Tensor:
        bias = full if full is None or full.shape[2] == 1 else full[:, :, rows]
        return attend(q[:, :, rows], k, v, factor, bias, dtype)

    out = fill_slices(q.new_empty(*q.shape[:-1], v.shape[-1]), rows_within_budget(q, k.shape[2], dtype), part)
    return from_heads(out, skip_output_reshape)


def _head_by_head(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
    """Attend in one head after the other with scores in bfloat16, (b, h, n, d) in and out.

    A second product subtracts each row's largest score before it is rounded, so that the rounding is relative to the
    distance from the largest: what weighs most is most exact.
    """
    out = q.new_empty(*q.shape[:-1], v.shape[-1])
    k = torch.cat([k, k.new_ones(*k.shape[:-1], 1)], dim=-1)  # (b, h, n_k, d + 1)
    rows = max(1, HEAD_SCORES // k.shape[2])
    for b, h in itertools.product(range(q.shape[0]), range(q.shape[1])):
        keys = k[b, h].T.contiguous()  # (d + 1, n_k)

        def part(some: slice, queries: Tensor = q[b, h], keys: Tensor = keys, values: Tensor = v[b, h]) -> Tensor:
            some_q = queries[some]
            largest = (some_q @ keys[:-1]).amax(-1, keepdim=True)
            scores = torch.cat([some_q, -largest], dim=-1) @ keys
            return scores.mul_(factor).softmax(-1) @ values

        fill_slices(out[b, h], rows, part)
    return out
