"""Leave the attention of some transformer blocks out, or guide away from the picture without it.

Guidance away from skipped layers is known from Stable Diffusion 3.5; here the skipped layers are self-attentions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .gate import Gate
from .hook import Around, Hook, Host, Listed
from .schedule import Schedule
from .stack import Inner
from .targets import KINDS, Address

SLOTS = {"self": ("attn1",), "cross": ("attn2",), "all": ("attn1", "attn2")}


def nothing(q: Tensor, v: Tensor) -> Tensor:
    """Return zeros in the shape of an attention's result."""
    return q.new_zeros((*q.shape[:2], v.shape[2]))


@dataclass(frozen=True)
class BlockSkip:
    """Skip the `self`- or `cross`-attention, or `all` of it, in the blocks of `address` during `schedule`.

    A skipped attention adds nothing to the tokens that pass it, and is not computed. `strength` (0..1) times the curve
    is how much is taken away; below 1 the attention is computed. 0 changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    attention: str = "all"
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.attention not in KINDS:
            raise ValueError(f"unknown kind {self.attention!r}; choose one of {', '.join(KINDS)}")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.attention)

    @property
    def kind(self) -> str:
        """Return `self`, `cross` or `all`, the narrower of the attention and the address."""
        return self.address.narrowed(self.attention).kind

    @property
    def slot(self) -> str:
        """Name the places it takes."""
        return ", ".join(SLOTS[self.kind])

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.strength == 0.0

    @property
    def name(self) -> str:
        """Describe it in one line."""
        what = {"self": "self-attention", "cross": "cross-attention", "all": "attention"}[self.kind]
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        return f"skip {what}{strength} on {Address(self.address.terms)}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return, for each attention, the layer that does not compute it and the patch that takes its output away."""
        for slot in SLOTS[self.kind]:
            yield Around(slot, SkipLayer(self, gate))
            yield Listed(f"{slot}_output_patch", SkipOutput(self, gate))


@dataclass(frozen=True)
class SkipLayer:
    """A block skip around the attention: what is to vanish wholly is not computed."""

    skip: BlockSkip
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options) * self.skip.strength
        return nothing(q, v) if weight == 1.0 else inner(q, k, v)


@dataclass(frozen=True)
class SkipOutput:
    """A block skip after the output projection, whose constant would be left of a skipped attention."""

    skip: BlockSkip
    gate: Gate

    def __call__(self, n: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.peek(extra_options) * self.skip.strength
        return n if weight == 0.0 else n * (1.0 - weight)


@dataclass(frozen=True)
class Skipped:
    """A way to weaken self-attention for guidance: it gives nothing but the constant of its output projection."""

    name: str = "skip-layer"

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return zeros."""
        return nothing(q, v)
