"""The scale of attention's scores: a temperature, and one that fits the size of the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .gate import Gate
from .grid import over_time
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address

SLOTS = {"self": "attn1", "cross": "attn2"}
PIXELS = 8  # of the picture in one latent pixel


@dataclass(frozen=True)
class AttentionTemperature:
    """Scale the scores of attention in the blocks of `address` during `schedule`.

    They are divided by `temperature`: above 1 attention spreads wider, below 1 it sharpens. In self-attention they are
    also multiplied by sqrt(log N / log T) for N keys now and T tokens in a picture of the trained size in pixels, which
    keeps the entropy of attention what it was in training (Jin et al. 2023, arXiv 2306.08645); 0x0 leaves that out.
    The text has the same number of tokens in every picture, so cross-attention has the temperature only.

    The curve of the schedule blends both factors from 1. Temperature 1 without a trained size changes nothing, to the
    bit.

    Raises ValueError naming the value and the fix.
    """

    temperature: float = 1.0
    trained_width: int = 0
    trained_height: int = 0
    address: Address = Address()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise ValueError(f"temperature is {self.temperature}; give a finite number above 0, 1 for no change")
        sides = (self.trained_width, self.trained_height)
        if sides != (0, 0) and min(sides) < PIXELS:
            raise ValueError(
                f"the trained size is {sides[0]}x{sides[1]}; give both sides in pixels, such as 512 and 512, or 0 and 0"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of attention that it changes."""
        changes = {"self": self.temperature != 1.0 or self.trained_width > 0, "cross": self.temperature != 1.0}
        return tuple(kind for kind in SLOTS if changes[kind] and self.address.kind in ("all", kind))

    @property
    def kind(self) -> str:
        """Return `self`, `cross` or `all`."""
        return self.kinds[0] if len(self.kinds) == 1 else self.address.kind

    @property
    def slot(self) -> str:
        """Return the slots."""
        return " and ".join(SLOTS[kind] for kind in self.kinds)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return not self.kinds

    @property
    def name(self) -> str:
        """Describe it in one line."""
        sized = f" trained at {self.trained_width}x{self.trained_height}" if self.trained_width else ""
        return f"temperature {self.temperature:g}{sized} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return a layer for each kind of attention."""
        return [Around(SLOTS[kind], TemperatureLayer(self, kind == "self", gate)) for kind in self.kinds]


def entropy_scale(tokens: int, trained: float) -> float:
    """Return sqrt(log_T N) for N tokens and T in training; 1 where one of them is a single token."""
    return math.sqrt(math.log(tokens) / math.log(trained)) if tokens > 1 and trained > 1 else 1.0


def trained_tokens(options: Mapping[str, Any], width: int, height: int) -> float:
    """Return how many tokens the current block has in a picture of this size in pixels."""
    block, picture = options["activations_shape"], options["original_shape"]
    return height * block[-2] / (PIXELS * picture[-2]) * (width * block[-1] / (PIXELS * picture[-1]))


@dataclass(frozen=True)
class TemperatureLayer:
    """A factor on the queries of one kind of attention."""

    value: AttentionTemperature
    sized: bool
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        if weight == 0.0:
            return inner(q, k, v)
        factor = 1.0 + (self._scale(q, k, extra_options) - 1.0) * weight
        return inner(q * (factor / (1.0 + (self.value.temperature - 1.0) * weight)), k, v)

    def _scale(self, q: Tensor, k: Tensor, options: Mapping[str, Any]) -> float:
        """Return the factor that keeps the entropy."""
        if not self.sized or self.value.trained_width == 0 or over_time(q, options):
            return 1.0
        width, height = self.value.trained_width, self.value.trained_height
        return entropy_scale(k.shape[1], trained_tokens(options, width, height))
