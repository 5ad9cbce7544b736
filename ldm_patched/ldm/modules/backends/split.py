"""Attention in slices of the queries."""

from __future__ import annotations

from torch import Tensor

from .basic import attend
from .kernel import kernel
from .slices import fill_slices, rows_within_budget


@kernel("split", upcast=True, dead_rows=True)
def split(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention a slice of queries at a time, as many as free memory allows: (b, n, heads * d) in and out."""

    def part(rows: slice) -> Tensor:
        some = mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]
        return attend(q[:, :, rows], k, v, some, scale)

    return fill_slices(q.new_empty(*q.shape[:-1], v.shape[-1]), rows_within_budget(q, k.shape[2], q.dtype), part)


attention_split = split.function
