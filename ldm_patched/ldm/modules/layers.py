"""The layers transformer blocks are made of, and the small functions they use.

Shapes: b batch, s tokens, c channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...modules.ops import disable_weight_init as ops
from ...modules.ops import plain
from .backends import dispatch


def exists(val: Any) -> bool:
    """Return whether a value is not None."""
    return val is not None


def uniq(arr: Iterable[Any]) -> Iterable[Any]:
    """Return the distinct elements in the order of their first occurrence, as a view of dict keys."""
    return dict.fromkeys(arr, True).keys()


def default(val: Any, d: Any) -> Any:
    """Return `val`, or `d` where it is None."""
    return val if exists(val) else d


def max_neg_value(t: Tensor) -> float:
    """Return the lowest finite value of a tensor's dtype."""
    return -torch.finfo(t.dtype).max


def init_(tensor: Tensor) -> Tensor:
    """Fill a tensor in place from U(-1/sqrt(n), 1/sqrt(n)), n the size of its last dimension."""
    bound = 1 / math.sqrt(tensor.shape[-1])
    with torch.no_grad():
        return tensor.uniform_(-bound, bound)


class GEGLU(nn.Module):
    """Gate one half of a linear projection with the GELU of the other (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, dim_in: int, dim_out: int, dtype: Any = None, device: Any = None, operations: Any = ops) -> None:
        super().__init__()
        self.proj = operations.Linear(dim_in, dim_out * 2, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim_in) to (..., dim_out)."""
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """Two linear layers around GELU, or around GEGLU with `glu`."""

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        mult: float = 4,
        glu: bool = False,
        dropout: float = 0.0,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        inner_dim = int(dim * mult)
        kind = {"dtype": dtype, "device": device}
        if glu:
            project_in: nn.Module = GEGLU(dim, inner_dim, **kind, operations=operations)
        else:
            project_in = nn.Sequential(operations.Linear(dim, inner_dim, **kind), nn.GELU())
        project_out = operations.Linear(inner_dim, default(dim_out, dim), **kind)
        self.net = nn.Sequential(project_in, nn.Dropout(dropout), project_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim_out)."""
        return self.net(x)


def Normalize(in_channels: int, dtype: Any = None, device: Any = None) -> nn.Module:  # noqa: N802
    """Build group normalisation in 32 groups, epsilon 1e-6, with learned scale and shift."""
    return plain.GroupNorm(num_groups=32, num_channels=in_channels, eps=1e-6, affine=True, dtype=dtype, device=device)


class CrossAttention(nn.Module):
    """Multi-head attention of queries from `x` to keys and values from `context`, or from `x` itself."""

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        heads: int = 8,
        dim_head: int = 64,
        dropout: float = 0.0,
        attn_precision: Any = None,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        inner_dim = dim_head * heads
        context_dim = default(context_dim, query_dim)
        kind = {"dtype": dtype, "device": device}
        self.heads = heads
        self.dim_head = dim_head
        self.attn_precision = attn_precision
        self.to_q = operations.Linear(query_dim, inner_dim, bias=False, **kind)
        self.to_k = operations.Linear(context_dim, inner_dim, bias=False, **kind)
        self.to_v = operations.Linear(context_dim, inner_dim, bias=False, **kind)
        self.to_out = nn.Sequential(operations.Linear(inner_dim, query_dim, **kind), nn.Dropout(dropout))

    def project(self, x: Tensor, context: Tensor | None, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k, v of shape (b, s, heads * dim_head); a missing context is `x`, a missing value the context."""
        context = default(context, x)
        return self.to_q(x), self.to_k(context), self.to_v(default(value, context))

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Map queries (b, s, query_dim) with context (b, s', context_dim) to (b, s, query_dim)."""
        q, k, v = self.project(x, context, value)
        attention = dispatch.optimized_attention if mask is None else dispatch.optimized_attention_masked
        out = attention(
            q,
            k,
            v,
            self.heads,
            mask,
            attn_precision=self.attn_precision,
            transformer_options=default(transformer_options, {}),
        )
        return self.to_out(out)
