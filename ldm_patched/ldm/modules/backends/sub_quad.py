"""Attention in chunks of queries and keys."""

from __future__ import annotations

from torch import Tensor

from ..sub_quadratic_attention import efficient_dot_product_attention
from .kernel import kernel


@kernel("sub_quad", upcast=True, dead_rows=True)
def sub_quad(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention in chunks chosen by free memory: (b, n, heads * d) in and out."""
    return efficient_dot_product_attention(q, k.transpose(-1, -2), v, mask=mask, scale=scale)


attention_sub_quad = sub_quad.function
