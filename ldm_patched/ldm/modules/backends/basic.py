"""Attention by the formula: the readable reference that the other functions are checked against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .shapes import from_heads, repeat_kv, to_heads, to_mask
from .wrapper import wrap_attn


def score_dtype(q: Tensor, attn_precision: torch.dtype | None) -> torch.dtype:
    """Choose the dtype of the scores: float32 on request, for bfloat16, and on a CPU, whose half sums lose digits."""
    asked = attn_precision == torch.float32 or q.device.type == "cpu"
    return torch.float32 if q.dtype is torch.bfloat16 or (q.dtype is torch.float16 and asked) else q.dtype


def masked_scores(q: Tensor, k: Tensor, scale: float, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return `scale * q k^T` with the mask applied: (b, h, n_q, n_k)."""
    # Scaling q first keeps float16 from overflowing.
    scores = torch.matmul(q.to(dtype) * scale, k.to(dtype).transpose(-1, -2))
    if mask is None:
        return scores
    if mask.dtype is torch.bool:
        return scores.masked_fill_(~mask, float("-inf"))
    return scores.add_(mask)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return `softmax(scale * q k^T + mask) v` for (b, h, n, d) tensors; rows without any key give zeros."""
    scores = masked_scores(q, k, scale, mask, dtype)
    dead = None
    if mask is not None:
        # The softmax of a row of -inf is NaN, and so are its gradients.
        dead = (scores == float("-inf")).all(-1, keepdim=True)
        scores.masked_fill_(dead, 0.0)
    out = torch.matmul(scores.softmax(-1), v.to(dtype)).to(q.dtype)
    return out if dead is None else out.masked_fill(dead, 0.0)


@wrap_attn
def attention_basic(
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
    """Compute attention with all scores in memory at once: (b, n, heads * d) in and out."""
    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    scale = kwargs.get("scale")
    out = attend(
        q,
        k,
        v,
        q.shape[-1] ** -0.5 if scale is None else scale,
        None if mask is None else to_mask(mask, q, k.shape[2]),
        score_dtype(q, attn_precision),
    )
    return from_heads(out, skip_output_reshape)
