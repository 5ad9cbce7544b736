"""The arguments of an attention function in one layout: (b, h, n, dim_head)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ...ldm.modules.backends.shapes import repeat_kv, to_heads, to_mask

NAMES = ("mask", "attn_precision", "skip_reshape", "skip_output_reshape")  # what may stand behind the heads
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # q, k, v (b, h, n, d) and a mask


class Given(NamedTuple):
    """The arguments of a call: q, k, v (b, h, n, d), heads, mask (b, h, q, k), and whether the result stays split."""

    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    mask: Tensor | None
    split: bool
    others: dict[str, Any]

    def of(self, rows: Callable[[Tensor], Tensor]) -> Given:
        """Return the arguments of some rows of the batch."""
        mask = self.mask if self.mask is None or len(self.mask) == 1 else rows(self.mask)
        return self._replace(q=rows(self.q), k=rows(self.k), v=rows(self.v), mask=mask)


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """Read the arguments of an attention function, in any of its layouts."""
    q, k, v, heads, *rest = args
    others = {**kwargs, **dict(zip(NAMES, rest, strict=False))}
    mask, skip = others.pop("mask", None), others.pop("skip_reshape", False)
    split, gqa = others.pop("skip_output_reshape", False), others.pop("enable_gqa", False)
    q, k, v = to_heads(q, k, v, heads, skip, gqa)
    k, v = repeat_kv(k, v, q.shape[1])
    return Given(q, k, v, heads, None if mask is None else to_mask(mask, q, k.shape[2]), split, others)
