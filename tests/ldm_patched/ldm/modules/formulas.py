"""The transformer block written out as formulas in float64, independent of the modules under test."""

from __future__ import annotations

import math
from typing import Any

import torch
from attention_patchbay.ldm_patched.modules.ops import plain
from torch import Tensor, nn


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Draw float64 normal noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(build: Any, *args: Any, **kwargs: Any) -> Any:
    """Build a module in float64 with random weights, norms included."""
    torch.manual_seed(5)
    module = build(*args, **kwargs, operations=plain).double()
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return module


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    """Compute x * Phi(x)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Compute x @ weight.T + bias."""
    out = torch.einsum("...i,oi->...o", x, layer.weight)
    return out if layer.bias is None else out + layer.bias


def feed_forward(x: Tensor, ff: nn.Module, glu: bool = True) -> Tensor:
    """Compute the gated or the plain feed-forward."""
    first, _, last = ff.net
    if not glu:
        return linear(gelu(linear(x, first[0])), last)
    kept, gate = linear(x, first.proj).chunk(2, -1)
    return linear(kept * gelu(gate), last)


def heads_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """Attend head by head; `allowed` (n_q, n_k) marks the keys each query may see."""
    outs = []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = torch.einsum("bqd,bkd->bqk", q_h, k_h) / math.sqrt(q_h.shape[-1])
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -math.inf)
        exp = (scores - scores.amax(-1, keepdim=True)).exp()
        outs.append(torch.einsum("bqk,bkd->bqd", exp / exp.sum(-1, keepdim=True), v_h))
    return torch.cat(outs, -1)


def cross_attention(attn: Any, x: Tensor, context: Tensor | None = None, value: Tensor | None = None) -> Tensor:
    """Compute a CrossAttention without a mask."""
    context = x if context is None else context
    value = context if value is None else value
    q, k, v = linear(x, attn.to_q), linear(context, attn.to_k), linear(value, attn.to_v)
    return linear(heads_attention(q, k, v, attn.heads), attn.to_out[0])


def transformer_block(block: Any, x: Tensor, context: Tensor | None, glu: bool = True) -> Tensor:
    """Compute a BasicTransformerBlock without patches."""
    if block.ff_in is not None:
        h = feed_forward(layer_norm(x, block.norm_in), block.ff_in, glu)
        x = h + x if h.shape == x.shape else h
    inner = x.shape[-1]
    x = x + cross_attention(block.attn1, layer_norm(x, block.norm1), context if block.disable_self_attn else None)
    if block.attn2 is not None:
        to = None if block.switch_temporal_ca_to_sa else context
        x = x + cross_attention(block.attn2, layer_norm(x, block.norm2), to)
    h = feed_forward(layer_norm(x, block.norm3), block.ff, glu)
    return h + x if h.shape[-1] == inner else h
