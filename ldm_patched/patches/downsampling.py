"""Fewer keys and values in self-attention, the queries all stay.

ToDo: Token Downsampling for Efficient Generation of High-Resolution Images (Smith et al. 2024, arXiv 2402.13573).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from .gate import Gate
from .grid import piece_grid
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address

METHODS = ("nearest", "mean")


@dataclass(frozen=True)
class KeyValueDownsampling:
    """Attend to a smaller picture in the self-attention of the blocks of `address` during `schedule`.

    Keys and values are taken from every `factor`-th token of each row and column (`nearest`, as in the paper), or from
    the `mean` of each cell of factor x factor tokens. A last cell at an edge that the factor does not divide is
    smaller. Both are linear in the tokens, so that they do the same before the bias-free projections and after them.

    The curve of the schedule scales the factor, rounded to whole numbers; a factor of 1 changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    factor: int = 2
    method: str = "nearest"
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = "attn1"

    def __post_init__(self) -> None:
        if self.factor < 1 or self.factor != int(self.factor):
            raise ValueError(f"factor is {self.factor}; give a whole number, 1 for no change")
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose one of {', '.join(METHODS)}")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.factor == 1

    @property
    def name(self) -> str:
        """Describe it in one line."""
        return f"keys and values / {self.factor} {self.method} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer."""
        return [Around(self.slot, DownsampleLayer(self, gate))]


def nearest(x: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Take the first token of each cell of (b, h * w, c)."""
    return x.unflatten(1, grid)[:, ::factor, ::factor].flatten(1, 2)


def mean(x: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Take the mean of each cell of (b, h * w, c); cells at the edge may be smaller."""
    picture = x.transpose(1, 2).unflatten(2, grid)  # (b, c, h, w)
    return F.avg_pool2d(picture, factor, ceil_mode=True).flatten(2).transpose(1, 2)


MATHS = {"nearest": nearest, "mean": mean}


@dataclass(frozen=True)
class DownsampleLayer:
    """Downsampling of the keys and values around the attention."""

    downsampling: KeyValueDownsampling
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.peek(extra_options)
        factor = int(self.downsampling.factor * weight + 0.5)
        grid = piece_grid(k, extra_options) if factor > 1 else None
        if grid is None or min(grid) < factor:
            if weight:
                self.gate.skip(extra_options, "too few tokens, or a factor of 1 by the curve")
            return inner(q, k, v)
        self.gate.weight(extra_options)
        smaller = MATHS[self.downsampling.method]
        return inner(q, smaller(k, grid, factor), smaller(v, grid, factor))
