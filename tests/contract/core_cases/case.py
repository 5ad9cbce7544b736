"""What the calls of core nodes are made of; needs torch alone.

A tensor is written as a `T` of its shape, so that a case is plain data; `made` draws it.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST = 40  # cases of a node


@dataclass(frozen=True)
class T:
    """A tensor of uniform numbers, or of normal ones, or of whole ones."""

    shape: tuple[int, ...]
    seed: int = 0
    kind: str = "uniform"

    def draw(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if self.kind == "normal":
            return torch.randn(self.shape, generator=generator)
        if self.kind == "blocks":  # of 8 pixels, for what looks at neighbours
            small = [max(1, side // 8) if 0 < i < 3 else side for i, side in enumerate(self.shape)]
            found = torch.rand(small, generator=generator)
            for dim in (1, 2):
                found = found.repeat_interleave(-(-self.shape[dim] // found.shape[dim]), dim)
            return found[:, : self.shape[1], : self.shape[2]]
        if self.kind == "sigmas":
            return torch.rand(self.shape, generator=generator).mul(14).sort(descending=True).values
        drawn = torch.rand(self.shape, generator=generator)
        if self.kind == "muted":  # near black sRGB makes large differences of small ones
            return 0.3 + 0.4 * drawn
        return drawn.round() if self.kind == "whole" else drawn


def made(value: Any) -> Any:
    """Return a value with its tensors drawn."""
    if isinstance(value, T):
        return value.draw()
    if isinstance(value, dict):
        return {name: made(one) for name, one in value.items()}
    if isinstance(value, list):
        return [made(one) for one in value]
    return value


def of(node: str, **choices: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the cases of a node: every combination of the values in tuples, or some of them."""
    lists = [value if isinstance(value, tuple) else (value,) for value in choices.values()]
    every = list(itertools.product(*lists))
    if len(every) > MOST:
        every = random.Random(node).sample(every, MOST)
    return [(node, dict(zip(choices, values, strict=True))) for values in every]


PICTURE = T((2, 24, 32, 3))
OTHER = T((1, 16, 40, 3), 1)
ALPHA = T((1, 24, 32, 4), 2)
GREY = T((2, 24, 32, 1), 2)
MASK = T((2, 24, 32), 3)
FLAT = T((24, 32), 4)
METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
CROPS = ("disabled", "center")
