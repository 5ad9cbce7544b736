"""One style for all pictures of a batch: each also attends to the first (Hertz et al. 2023, arXiv 2312.02133)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .gate import Gate
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address

EPSILON = 1e-5  # of the variance


def first_rows(x: Tensor, sides: int) -> Tensor:
    """Return (b, n, c) with every row replaced by the first of its side; the batch holds `sides` equal sides."""
    return x[:: len(x) // sides].repeat_interleave(len(x) // sides, dim=0)


def normalised(x: Tensor, style: Tensor) -> Tensor:
    """Give each channel of tokens (b, n, c) the mean and deviation of another's: AdaIN (the paper's equation 3)."""
    variance, mean = torch.var_mean(x.float(), dim=1, keepdim=True)
    wanted_variance, wanted_mean = torch.var_mean(style.float(), dim=1, keepdim=True)
    factor = ((wanted_variance + EPSILON) / (variance + EPSILON)).sqrt()
    return ((x - mean) * factor + wanted_mean).to(x.dtype)


def attend_also(inner: Inner, q: Tensor, k: Tensor, v: Tensor, more_k: Tensor, more_v: Tensor) -> Tensor:
    """Attend to the keys and values (b, n, c) and to more of them, in one softmax."""
    return inner(q, torch.cat([k, more_k], dim=1), torch.cat([v, more_v], dim=1))


@dataclass(frozen=True)
class StyleAligned:
    """Let every row of a batch attend also to the first row of its side of the guidance, in self-attention.

    With `adain`, queries and keys get the mean and deviation of the first row's before. The first row itself stays as
    it is. `strength` (0..1) times the curve blends between the attention without and with it; between the two both are
    computed. 0 changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    adain: bool = True
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = "attn1"

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.strength == 0.0

    @property
    def name(self) -> str:
        """Describe it in one line."""
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        adain = "" if self.adain else " without AdaIN"
        return f"style aligned{adain}{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer around self-attention."""
        return [Around(self.slot, StyleLayer(self, gate))]

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, sides: int, weight: float) -> Tensor:
        """Attend with the first rows shared: q, k, v (b, n, c) of `sides` sides."""
        weight *= self.strength
        if weight == 0.0:
            return inner(q, k, v)
        shared_q, shared_k = q, k
        if self.adain:
            shared_q, shared_k = normalised(q, first_rows(q, sides)), normalised(k, first_rows(k, sides))
        shared = attend_also(inner, shared_q, shared_k, v, first_rows(k, sides), first_rows(v, sides))
        return shared if weight == 1.0 else torch.lerp(inner(q, k, v), shared, weight)


@dataclass(frozen=True)
class StyleLayer:
    """A style-aligned attention as a layer; a batch of one picture has nothing to share."""

    style: StyleAligned
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        sides = len(extra_options.get("cond_or_uncond", [0]))
        if len(q) <= sides:
            return inner(q, k, v)
        return self.style.attend(inner, q, k, v, sides, self.gate.weight(extra_options))
