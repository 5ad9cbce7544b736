"""Re-weighting of words: the attention that a prompt's words get is scaled (Hertz et al. 2022, arXiv 2208.01626)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .context import OTHER, POSITIVE, columns, places, rows
from .gate import Gate
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address


@dataclass(frozen=True)
class WordWeight:
    """Multiply the attention weights of some tokens of the positive prompt by `weight`, after the softmax.

    Prompt-to-prompt's attention re-weighting (Hertz et al. 2022, arXiv 2208.01626, section 4): the column of a token in
    the attention map M is scaled and the other columns stay as they are, so the rows of the map no longer sum to 1.
    M diag(c) V = M (diag(c) V), so the values are scaled and any attention function computes it.

    Args:
        positions: places of the tokens in the context.
        length: tokens of the whole prompt with its padding.
        strength: from 0 (weight 1) to 1 (all of `weight`), times the curve of the schedule.

    Raises ValueError naming the value and the fix.
    """

    positions: tuple[int, ...]
    weight: float = 2.0
    length: int = 77
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        outside = [position for position in self.positions if not 0 <= position < self.length]
        if outside:
            raise ValueError(f"position {outside[0]} lies outside the prompt of {self.length} tokens")
        if not math.isfinite(self.weight):
            raise ValueError(f"weight is {self.weight}; give a finite number")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the weight can never change anything."""
        return self.weight == 1.0 or self.strength == 0.0 or not self.positions

    @property
    def name(self) -> str:
        """Describe the method in one line."""
        places = ", ".join(map(str, self.positions))
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        return f"word weight {self.weight:g} of tokens {places}{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer around cross-attention."""
        return [Around(self.slot, WordWeightLayer(self, gate))]


def scaled(v: Tensor, sides: Iterable[slice], positions: Sequence[int], factor: float) -> Tensor:
    """Return values (b, n, c) with some tokens of some rows multiplied."""
    v = v.clone()
    for side in sides:
        v[side, list(positions)] *= factor
    return v


@dataclass(frozen=True)
class WordWeightLayer:
    """A word weight around cross-attention."""

    method: WordWeight
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        sides = [] if OTHER in extra_options else rows(POSITIVE, extra_options, len(v))
        weight = self.method.strength * (self.gate.weight(extra_options) if sides else 0.0)
        if weight == 0.0:
            return inner(q, k, v)
        memory = self.gate.memory(extra_options)
        words = places(self.method.positions, self.method.length, v, extra_options, memory)
        some = columns(words, extra_options)
        return inner(q, k, scaled(v, sides, some, 1.0 + (self.method.weight - 1.0) * weight))
