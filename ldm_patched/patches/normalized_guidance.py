"""Normalized attention guidance: a negative prompt inside cross-attention, for any cfg and no further model call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .context import POSITIVE, ContextPatch, attend_to, rows, take_off
from .gate import Gate
from .hook import Around, Hook, Host, Listed
from .schedule import Schedule
from .stack import Inner
from .targets import Address


@dataclass(frozen=True, eq=False)
class NormalizedGuidance:
    """Push the cross-attention of the positive prompt away from that of a negative one (Chen et al. 2025, arXiv
    2505.21179).

    `negative` holds its tokens (1, n, c), `scale` is how far to push, 1 not at all; a token's result keeps at most
    `tau` times its L1 norm, and `strength` (0..1) times the curve blends it in.

    Raises ValueError naming the value and the fix.
    """

    negative: Tensor
    scale: float = 5.0
    tau: float = 2.5
    strength: float = 0.5
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}; give a finite number")
        if not self.tau > 0.0:
            raise ValueError(f"tau is {self.tau}; give a number above 0")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the guidance can never change anything."""
        return self.strength == 0.0 or self.scale == 1.0

    @property
    def name(self) -> str:
        """Describe the guidance in one line."""
        values = f"{self.scale:g} tau {self.tau:g} x {self.strength:g}"
        return f"normalized guidance {values} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return what appends the negative prompt, and what attends to it."""
        contexts = (self.negative,)
        return [
            Listed("attn2_patch", ContextPatch(contexts, gate)),
            Around("attn2", NormalizedLayer(self, contexts, gate)),
        ]


def normalized(positive: Tensor, negative: Tensor, scale: float, tau: float, blend: float) -> Tensor:
    """Extrapolate from a negative result (b, n, c), bound each token's L1 norm, and blend with the positive one.

    z~ = s z+ - (s - 1) z-, z^ = z~ min(r, tau) / r with r = |z~|_1 / |z+|_1, and z = a z^ + (1 - a) z+ (equations 7 to
    10).
    """
    pushed = scale * positive - (scale - 1.0) * negative
    norms = [x.abs().sum(-1, keepdim=True, dtype=torch.float32) for x in (pushed, positive)]
    ratio = norms[0] / norms[1].clamp(min=1e-12)
    bound = (tau / ratio.clamp(min=1e-12)).clamp(max=1.0).to(pushed.dtype)
    return torch.lerp(positive, pushed * bound, blend)


@dataclass(frozen=True, eq=False)
class NormalizedLayer:
    """The guidance around cross-attention; rows of the negative side are left alone."""

    method: NormalizedGuidance
    contexts: tuple[Tensor, ...]
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        if weight == 0.0:
            return inner(q, k, v)
        k, (other_k,) = take_off(k, self.contexts)
        v, (other_v,) = take_off(v, self.contexts)
        out = inner(q, k, v)
        positive = rows(POSITIVE, extra_options, len(q))
        if not positive:
            return out
        negative = attend_to(inner, q, k, v, (other_k, other_v), extra_options)
        method, out = self.method, out.clone()
        for some in positive:
            out[some] = normalized(out[some], negative[some], method.scale, method.tau, weight * method.strength)
        return out
