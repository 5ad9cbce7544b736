"""Scores of attention, a slice of queries at a time: for methods that have to look at what a kernel never shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .site import Beside

MOST = 2**24  # scores at a time, in float32


def sliced_scores(q: Tensor, k: Tensor, most: int = MOST) -> Iterator[Tensor]:
    """Yield `q k^T / sqrt(d)` for slices of the queries: (b, h, n, d), (b, h, m, d) -> (b, h, slice, m), in float32."""
    keys = k.transpose(-1, -2).float() * q.shape[-1] ** -0.5  # (b, h, d, m)
    size = max(1, most // (q.shape[0] * q.shape[1] * k.shape[2]))
    for some in q.split(size, dim=2):
        yield some.float() @ keys


def chosen_heads(x: Tensor, heads: Sequence[int]) -> Tensor:
    """Return the chosen heads of (b, heads, ...), all where none are named; those that a block lacks are left out."""
    return x[:, [head for head in heads if head < x.shape[1]]] if heads else x


def with_beside(k: Tensor, beside: Sequence[Beside]) -> Tensor:
    """Return keys (b, h, m, d) with those of the same softmax behind them."""
    return torch.cat([k, *(one.k for one in beside)], dim=2) if beside else k


def bias_of(keys: Sequence[Beside]) -> Tensor:
    """Return what is added to the scores of keys of one softmax, in float32: (b or 1, h or 1, 1, m)."""
    found = [one.bias if one.bias is not None else one.k.new_zeros(1, 1, 1, one.k.shape[2]) for one in keys]
    rows, heads = (max(bias.shape[i] for bias in found) for i in (0, 1))
    return torch.cat([one.float().expand(rows, heads, *one.shape[2:]) for one in found], dim=-1)


def to_itself(q: Tensor, k: Tensor, v: Tensor, beside: Sequence[Beside]) -> Tensor:
    """Return what attention gives in which each of the tokens attends to itself alone among them: (b, h, n, d).

    In joint attention it attends to what stands beside too, as the text does in diffusers' guidance for SD3.
    """
    v = v[:, :, : q.shape[2]]  # behind them another node may have put those of another picture
    if not beside:
        return v
    own = (q.float() * k[:, :, : q.shape[2]].float()).sum(-1, keepdim=True) * q.shape[-1] ** -0.5
    bias = bias_of(beside)
    keys, values = with_beside(beside[0].k, beside[1:]), torch.cat([one.v for one in beside], dim=2).float()
    found, start = [], 0
    for scores in sliced_scores(q, keys):
        some = slice(start, start + scores.shape[2])
        weights = torch.cat([scores + bias, own[:, :, some]], dim=-1).softmax(-1)
        found.append(weights[..., :-1] @ values + weights[..., -1:] * v[:, :, some].float())
        start = some.stop
    return torch.cat(found, dim=2).to(v.dtype)
