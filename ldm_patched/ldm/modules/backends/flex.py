"""Torch's flex attention: one kernel for every mask, made by torch's compiler on the first call of a kind."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .shapes import from_heads, repeat_kv, to_bias, to_heads, to_mask, zero_dead_rows
from .wrapper import wrap_attn


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _score_mod(bias: Tensor) -> Callable[..., Tensor]:
    """Return the function that adds a bias (b, h, n_q, n_k) to each score."""

    def add(score: Tensor, b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score + bias[b, h, row, column]

    return add


@wrap_attn
def attention_flex(
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
    """Compute attention with flex attention: (b, n, heads * d) in and out."""
    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    if mask is None:
        return from_heads(_compiled()(q, k, v, scale=kwargs.get("scale")), skip_output_reshape)
    bias = to_bias(to_mask(mask, q, k.shape[2]), q.dtype).expand(*q.shape[:3], k.shape[2])
    out = _compiled()(q, k, v, score_mod=_score_mod(bias), scale=kwargs.get("scale"))
    return from_heads(zero_dead_rows(out, bias), skip_output_reshape)
