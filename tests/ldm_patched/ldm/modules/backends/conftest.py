"""The independent truth: attention in float64, written out."""

from __future__ import annotations

import torch
from torch import Tensor


def float64_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend with (b, h, n, d) tensors and a mask of the full (b, h, n_q, n_k); a row without any key gives zeros."""
    q, k, v = q.double(), k.double(), v.double()
    groups = q.shape[1] // k.shape[1]
    k, v = (torch.stack([t[:, head // groups] for head in range(q.shape[1])], 1) for t in (k, v))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=torch.float64)
        scores = scores + (bias.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else mask.double())
    weights = torch.exp(scores - scores.amax(-1, keepdim=True).clamp_min(-1e300))
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-300)
    return torch.einsum("bhij,bhjd->bhid", weights, v)
