"""Scores of attention, a slice of queries at a time: for methods that have to look at what a kernel never shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

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
