"""Torch's flex attention: one kernel for every mask, made by torch's compiler on the first call of a kind."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .kernel import CUDA, FLOATS, kernel
from .limits import needs
from .shapes import additive_bias


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _score_mod(bias: Tensor) -> Callable[..., Tensor]:
    """Return the function that adds a bias (b, h, n_q, n_k) to each score."""

    def add(score: Tensor, b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score + bias[b, h, row, column]

    return add


@kernel(
    "flex",
    devices=CUDA,
    dtypes=FLOATS,
    dim_heads=frozenset({16, 32, 64, 128, 256}),
    bias=additive_bias,
    missing=needs("triton", "triton", (8, 0), amd=True),
)
def flex(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention with flex attention: (b, n, heads * d) in and out."""
    if bias is None:
        return _compiled()(q, k, v, scale=scale)
    return _compiled()(q, k, v, score_mod=_score_mod(bias.expand(*q.shape[:3], k.shape[2])), scale=scale)


attention_flex = flex.function
