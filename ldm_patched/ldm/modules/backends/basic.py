"""Attention by the formula: the readable reference that the other functions are checked against."""

from __future__ import annotations

import torch
from torch import Tensor

from .kernel import kernel


def masked_scores(q: Tensor, k: Tensor, scale: float | None, mask: Tensor | None) -> Tensor:
    """Return `scale * q k^T` with the mask applied: (b, h, n_q, n_k)."""
    # Scaling q first keeps float16 from overflowing.
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
    if mask is None:
        return scores
    if mask.dtype is torch.bool:
        return scores.masked_fill_(~mask, float("-inf"))
    return scores.add_(mask)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Return `softmax(scale * q k^T + mask) v` for (b, h, n, d) tensors; rows without any key give zeros."""
    scores = masked_scores(q, k, scale, mask)
    if mask is None:
        return scores.softmax(-1) @ v
    # The softmax of a row of -inf is NaN, and so are its gradients.
    dead = (scores == float("-inf")).all(-1, keepdim=True)
    return (scores.masked_fill_(dead, 0.0).softmax(-1) @ v).masked_fill(dead, 0.0)


@kernel("basic", upcast=True, dead_rows=True)
def basic(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention with all scores in memory at once: (b, n, heads * d) in and out."""
    return attend(q, k, v, mask, scale)


attention_basic = basic.function
