"""Injection of attention maps: the first picture of a batch gives the others its layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .context import POSITIVE
from .gate import Gate
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import KINDS, Address

SLOTS = {"self": "attn1", "cross": "attn2"}


@dataclass(frozen=True)
class MapInjection:
    """Let every picture of a batch attend with the queries and keys of the first one, and with its own values.

    The injection of self-attention of plug-and-play diffusion features (Tumanyan et al. 2022, arXiv 2211.12572, section
    3): the structure comes from the first picture, the content from the prompts and noise of the others. It acts on
    the positive and on the negative side, each with maps of its own.

    Args:
        strength: from 0 (own maps) to 1 (the first picture's), times the curve of the schedule.

    Raises ValueError naming the value and the fix.
    """

    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule(0.0, 0.5)
    kind: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        if self.address.kind not in KINDS:
            raise ValueError(f"unknown kind {self.address.kind!r}; choose one of {', '.join(KINDS)}")

    @property
    def slot(self) -> str:
        """Return the slot of the first kind it works on."""
        return SLOTS.get(self.address.kind, "attn1")

    @property
    def neutral(self) -> bool:
        """Tell whether the maps can never change anything."""
        return self.strength == 0.0

    @property
    def name(self) -> str:
        """Describe the method in one line."""
        return f"attention maps of the first picture {self.strength:g} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return a layer around each kind of attention."""
        slots = [slot for kind, slot in SLOTS.items() if self.address.kind in ("all", kind)]
        return [Around(slot, MapLayer(self, gate)) for slot in slots]


def of_first(x: Tensor, sides: int) -> Tensor:
    """Return queries or keys (b, n, c) with the first row of each side in all of its rows."""
    by_side = x.unflatten(0, (sides, -1))
    return by_side[:, :1].expand_as(by_side).flatten(0, 1)


@dataclass(frozen=True)
class MapLayer:
    """The first picture's maps around one attention."""

    method: MapInjection
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        sides = len(extra_options.get("cond_or_uncond", [POSITIVE]))
        weight = self.method.strength * (self.gate.weight(extra_options) if len(q) > sides else 0.0)
        if weight == 0.0:
            return inner(q, k, v)
        mapped = inner(of_first(q, sides), of_first(k, sides), v)
        return mapped if weight == 1.0 else torch.lerp(inner(q, k, v), mapped, weight)
