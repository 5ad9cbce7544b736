"""Word weights after the softmax: how much the attention to some words counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .context import POSITIVE, rows
from .gate import Gate
from .hook import Hook, Host, Listed
from .schedule import Schedule
from .targets import Address


@dataclass(frozen=True)
class Reweighting:
    """Multiply the attention weights of some words by `weight`, as prompt-to-prompt does (Hertz et al. 2022, arXiv
    2208.01626, section 3.2).

    `positions` are the words' places in the context. Scaling a column of the attention matrix M by c is scaling that
    row of the values: M diag(c) V = M (c V), and the bias-free projection of the values passes the factor on; so the
    values' side of the context is scaled, exactly and on any backend. `strength` (0..1) times the curve is how far the
    factor goes from 1 to `weight`. Only the positive prompt is changed.

    Raises ValueError naming the value and the fix.
    """

    positions: tuple[int, ...]
    weight: float = 1.0
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2_patch"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"weight is {self.weight}; give a finite number")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the method can never change anything."""
        return self.weight == 1.0 or self.strength == 0.0

    @property
    def name(self) -> str:
        """Describe the method in one line."""
        places = ", ".join(map(str, self.positions))
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        return f"words {places} times {self.weight:g}{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the patch of the values' side of the context."""
        return [Listed("attn2_patch", ValuePatch(self, gate))]


def reweighted(value: Tensor, positions: tuple[int, ...], factor: float, some: list[slice]) -> Tensor:
    """Return (b, n, c) with the tokens at some positions scaled in some rows.

    Raises ValueError for a position that the context lacks.
    """
    if positions and positions[-1] >= value.shape[1]:
        raise ValueError(
            f"the words stand at {positions[-1]}, but the prompt has {value.shape[1]} tokens; give this node the very "
            "prompt and CLIP of the sampler"
        )
    value = value.clone()
    for part in some:
        value[part, list(positions)] *= factor
    return value


@dataclass(frozen=True)
class ValuePatch:
    """An attn2_patch that scales what the values are made of."""

    method: Reweighting
    gate: Gate

    def __call__(
        self, n: Tensor, context: Tensor, value: Tensor | None, extra_options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        weight = self.gate.weight(extra_options) * self.method.strength
        if weight == 0.0:
            return n, context, value
        factor = 1.0 + (self.method.weight - 1.0) * weight
        given = context if value is None else value
        some = rows(POSITIVE, extra_options, len(given))
        return n, context, reweighted(given, self.method.positions, factor, some)
