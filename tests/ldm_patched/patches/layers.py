"""One attention call with layers around it, without a model, and plain attention in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.place import Wrap
from attention_patchbay.ldm_patched.patches.engine.stack import Layer, Stack
from attention_patchbay.ldm_patched.patches.record.plan import Entry
from torch import Tensor

from .models import draw

HERE = BlockId("input", 3)
HEADS = 2


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in float64."""
    q, k, v = (x.double().unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def options(height: int, width: int, batch: int = 2, latent: int = 1, **more: Any) -> dict[str, Any]:
    """Return the options of a call in the block HERE, whose tokens are `latent` latent pixels wide."""
    shapes = {"activations_shape": [batch, 8, height, width]}
    shapes["original_shape"] = [batch, 4, height * latent, width * latent]
    return {"block": HERE[:2], "block_index": 0, "n_heads": HEADS, **shapes, **more}


def layers(*methods: Any, slot: str = "attn1") -> Stack:
    """Return the stack of a slot after the methods were attached in this order; the last is the outermost."""
    found = []
    for method in methods:
        strength = getattr(method, "strength", 1.0)
        gate = Gate(Entry(method.name, schedule=method.schedule, value=method), frozenset({HERE}), strength=strength)
        places = [place for place in method.places(gate, Host(), None) if isinstance(place, Wrap)]
        found += [Layer(gate, place.act, place.idle, place.counted) for place in places if place.slot == slot]
    return Stack(slot, tuple(found), lambda q, k, v, extra: plain(q, k, v).to(q.dtype))


def tokens(height: int, width: int, batch: int = 2, channels: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Return random q, k, v (b, h * w, c)."""
    q, k, v = (draw(seed, batch, height * width, channels) for seed in range(3))
    return q, k, v


def near(out: Tensor, expected: Tensor) -> bool:
    """Return whether a float32 result is the float64 one."""
    return bool((out - expected).abs().max() < 1e-5)


def step(number: int) -> dict[str, Any]:
    """Return the options of a step of a run."""
    schedule = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])
    return {"sigmas": schedule[number : number + 1], "sample_sigmas": schedule}
