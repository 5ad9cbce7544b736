"""Sparse cross-attention beside the dense one: words that hardly matter fall out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .context import LENGTH
from .entmax import entmax15, sparsemax
from .gate import Gate
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address

FORMS = {"entmax": entmax15, "sparsemax": sparsemax}
SCORES = 2**24  # scores at a time


@dataclass(frozen=True)
class SparseAttention:
    """Extrapolate cross-attention from dense to sparse weights (PLADIS, Kim & Jeong 2025, arXiv 2503.07677).

    `out = dense + scale * (sparse - dense)`, where the sparse result has the weights of `form`: `entmax` (1.5-entmax)
    or `sparsemax`. The curve of the schedule scales it; scale 0 changes nothing, to the bit. The difference is taken on
    the prompt of the sampler alone and added to what methods further in make of the attention, so it undoes none.

    Raises ValueError naming the value and the fix.
    """

    scale: float = 2.0
    form: str = "entmax"
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}; give a finite number")
        if self.form not in FORMS:
            raise ValueError(f"unknown form {self.form!r}; choose one of {', '.join(FORMS)}")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the method can never change anything."""
        return self.scale == 0.0

    @property
    def name(self) -> str:
        """Describe the method in one line."""
        return f"sparse attention {self.form} {self.scale:g} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer around cross-attention."""
        return [Around("attn2", SparseLayer(self, gate))]


def sparse_change(q: Tensor, k: Tensor, v: Tensor, heads: int, form: str) -> Tensor:
    """Return sparse minus dense attention, a slice of queries at a time: (b, n, h * d) in and out, in float32."""
    queries, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (b, h, n, d)
    factor = queries.shape[-1] ** -0.5
    keys = keys.transpose(-1, -2).float() * factor
    size = max(1, SCORES // (q.shape[0] * heads * k.shape[1]))
    parts = []
    for some in queries.split(size, dim=2):
        scores = some.float() @ keys  # (b, h, size, k)
        parts.append((FORMS[form](scores) - scores.softmax(-1)) @ values.float())
    return torch.cat(parts, dim=2).transpose(1, 2).flatten(2).to(q.dtype)


@dataclass(frozen=True)
class SparseLayer:
    """The change of one call."""

    method: SparseAttention
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        out = inner(q, k, v)
        if weight == 0.0:
            return out
        own = slice(extra_options.get(LENGTH))
        change = sparse_change(q, k[:, own], v[:, own], extra_options["n_heads"], self.method.form)
        return out + weight * self.method.scale * change
