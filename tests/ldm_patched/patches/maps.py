"""Explicit attention maps in float64, and a layer called by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.place import Wrap
from attention_patchbay.ldm_patched.patches.engine.stack import Layer, Stack
from attention_patchbay.ldm_patched.patches.record.plan import Entry
from torch import Tensor

HEADS = 2
HERE = BlockId("middle", 0)


def heads(x: Tensor) -> Tensor:
    """Return (b, n, h * d) as (b, h, n, d)."""
    return x.double().unflatten(-1, (HEADS, -1)).transpose(1, 2)


def maps(q: Tensor, k: Tensor) -> Tensor:
    """Return the attention weights (b, h, n, m)."""
    q, k = heads(q), heads(k)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(q.shape[-1])
    exps = (scores - scores.amax(-1, keepdim=True)).exp()
    return exps / exps.sum(-1, keepdim=True)


def applied(weights: Tensor, v: Tensor) -> Tensor:
    """Return maps times values as (b, n, h * d)."""
    return torch.einsum("bhnm,bhmd->bhnd", weights, heads(v)).transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return applied(maps(q, k), v).to(v.dtype)


@dataclass(frozen=True)
class Alone:
    """A layer with nothing but a given attention in it."""

    slot: str
    layer: Layer

    def around(self, inner: Any, q: Tensor, k: Tensor, v: Tensor, now: dict[str, Any]) -> Tensor:
        return Stack(self.slot, (self.layer,), lambda q, k, v, extra: inner(q, k, v))(q, k, v, now)


def layer(method: Any, slot: str, curve: float = 1.0) -> Any:
    """Return the layer that a method puts on a slot, with its gate as far open as `curve`."""
    schedule = Schedule(curve=f"0:{curve}, 1:{curve}")
    strength = getattr(method, "strength", 1.0)
    gate = Gate(Entry(method.name, schedule=schedule, value=method), frozenset({HERE}), strength=strength)
    places = [place for place in method.places(gate, Host(), None) if isinstance(place, Wrap)]
    (found,) = [place for place in places if place.slot == slot]
    return Alone(slot, Layer(gate, found.act, found.idle, found.counted))


def around(method: Any, q: Tensor, k: Tensor, v: Tensor, now: dict[str, Any], curve: float = 1.0) -> Tensor:
    """Attend with a method on cross-attention."""
    out: Tensor = layer(method, "attn2", curve).around(attend, q, k, v, now)
    return out


def options(*sides: int, **more: Any) -> dict[str, Any]:
    return {"block": ("middle", 0), "block_index": 0, "cond_or_uncond": list(sides), "n_heads": HEADS, **more}
