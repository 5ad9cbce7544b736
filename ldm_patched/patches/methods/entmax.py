"""Sparse forms of the softmax: most weights are exactly zero."""

from __future__ import annotations

import torch
from torch import Tensor


def sparsemax(scores: Tensor) -> Tensor:
    """Project scores on the probability simplex along the last dimension (Martins & Astudillo 2016, arXiv 1602.02068).

    p_i = max(z_i - tau, 0) with tau = (s - 1) / k, s the sum of the k largest, k the largest with 1 + k z_k > s.
    A row with NaN gives NaN.
    """
    scores = scores - scores.amax(-1, keepdim=True)
    ordered = scores.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1)
    k = _counts(scores)
    size = _first(1.0 + k * ordered > sums)
    tau = (sums.gather(-1, size - 1) - 1.0) / size
    return (scores - tau).clamp(min=0.0)


def entmax15(scores: Tensor) -> Tensor:
    """Return the 1.5-entmax along the last dimension (Peters et al. 2019, arXiv 1905.05702, algorithm 2).

    With z halved, p_i = max(z_i - tau, 0)^2, where tau = M - sqrt((1 - S) / k) of the k largest, M their mean and S the
    sum of their squared deviations; k is the number of z not below their own tau. A row with NaN gives NaN.
    """
    halved = (scores - scores.amax(-1, keepdim=True)) / 2.0
    ordered = halved.sort(dim=-1, descending=True).values
    k = _counts(scores)
    mean = ordered.cumsum(-1) / k
    deviation = (ordered.square().cumsum(-1) / k - mean.square()) * k
    tau = mean - ((1.0 - deviation) / k).clamp(min=0.0).sqrt()
    size = _first(tau <= ordered)
    return (halved - tau.gather(-1, size - 1)).clamp(min=0.0).square()


def _first(inside: Tensor) -> Tensor:
    # a row of NaN compares false everywhere, and there is no place before the first
    return inside.sum(-1, keepdim=True).clamp(min=1)


def _counts(scores: Tensor) -> Tensor:
    return torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
