"""Fewer tokens in self-attention: similar ones are merged before it and get the same result after it.

Token Merging for Fast Stable Diffusion (Bolya & Hoffman 2023, arXiv 2303.17604).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .draw import step_generator, step_number
from .gate import Gate
from .grid import piece_grid
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address

DESTINATIONS = ("random", "top-left")
LARGEST_RATIO = 0.75  # of the four tokens of a cell one is left


@dataclass(frozen=True)
class TokenMerging:
    """Merge similar tokens around the self-attention in the blocks of `address` during `schedule`.

    Every cell of 2x2 tokens has one destination, drawn anew in each step (`random`, the same draws in every run) or
    its `top-left`. The other tokens look for the destination with the most similar queries. The `ratio` of all tokens
    that are most like theirs are merged with it, attention runs on what is left, and its result is copied to all that
    were merged. The paper merges what is projected to q, k and v; the projections are linear and without bias, so the
    mean of projected tokens is the projection of their mean, and merging after them is the same.

    `ratio` times the curve of the schedule is the part of the tokens that is merged; 0 changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    ratio: float = 0.5
    destination: str = "random"
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = "attn1"

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= LARGEST_RATIO:
            raise ValueError(f"ratio is {self.ratio}; give a number from 0 to {LARGEST_RATIO}: one of four stays")
        if self.destination not in DESTINATIONS:
            raise ValueError(f"unknown destination {self.destination!r}; choose one of {', '.join(DESTINATIONS)}")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.ratio == 0.0

    @property
    def name(self) -> str:
        """Describe it in one line."""
        fixed = "" if self.destination == "random" else f" to {self.destination}"
        return f"token merging {self.ratio:g}{fixed} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer."""
        return [Around(self.slot, MergeLayer(self, gate))]


def draw_cells(grid: tuple[int, int], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the tokens of a grid that others merge into, one of each 2x2 cell, and all others.

    Without a generator it is the top left of each cell. Rows and columns beyond the last whole cell have none.
    """
    height, width = grid
    cells = (height // 2, width // 2)
    pick = torch.zeros(cells, dtype=torch.long)
    if generator is not None:
        pick = torch.randint(4, cells, generator=generator)
    rows = 2 * torch.arange(cells[0])[:, None] + pick // 2
    columns = 2 * torch.arange(cells[1]) + pick % 2
    destinations = (rows * width + columns).flatten()
    others = torch.ones(height * width, dtype=torch.bool)
    others[destinations] = False
    return destinations, others.nonzero().flatten()


def match(metric: Tensor, destinations: Tensor, sources: Tensor, count: int) -> Tensor:
    """Merge the `count` sources that are most like a destination with it.

    Likeness is the cosine of the metric (b, n, c). Returns the place (b, n) of each token in what is left, (b, n -
    count): first the destinations, then the sources that stay, the most alike first.
    """
    direction = F.normalize(metric, dim=-1)
    likeness = direction[:, sources] @ direction[:, destinations].transpose(1, 2)  # (b, s, d)
    best, partner = likeness.max(dim=-1)  # (b, s)
    order = best.argsort(dim=-1, descending=True, stable=True)
    batch, tokens = metric.shape[:2]
    places = torch.arange(tokens - count, device=metric.device).expand(batch, -1)  # (b, n - count)
    kept = places[:, len(destinations) :]
    of_sources = torch.empty_like(order).scatter_(1, order, torch.cat([partner.gather(1, order[:, :count]), kept], 1))
    place = torch.empty(batch, tokens, dtype=torch.long, device=metric.device)
    place[:, destinations] = places[:, : len(destinations)]
    place[:, sources] = of_sources
    return place


def merge(x: Tensor, place: Tensor, left: int) -> Tensor:
    """Take the mean of the tokens (b, n, c) at each place (b, n): (b, left, c)."""
    rows = _rows(place, left)
    flat = x.flatten(0, 1).float()  # half precision would lose count of many tokens
    sums = flat.new_zeros(len(x) * left, x.shape[2]).index_add_(0, rows, flat)
    counts = flat.new_zeros(len(sums), 1).index_add_(0, rows, flat.new_ones(len(flat), 1))
    return (sums / counts).to(x.dtype).unflatten(0, (len(x), left))


def unmerge(x: Tensor, place: Tensor) -> Tensor:
    """Copy merged tokens (b, left, c) to each of the tokens (b, n, c) that went into them."""
    return x.flatten(0, 1)[_rows(place, x.shape[1])].unflatten(0, place.shape)


def _rows(place: Tensor, left: int) -> Tensor:
    """Number the places (b, n) through the batch: (b * n)."""
    return (place + left * torch.arange(len(place), device=place.device)[:, None]).flatten()


@dataclass(frozen=True)
class MergeLayer:
    """Token merging around the attention; keys and values of another number than the queries stay as they are."""

    merging: TokenMerging
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.peek(extra_options)
        count = int(self.merging.ratio * weight * q.shape[1])
        grid = piece_grid(q, extra_options) if count else None
        if grid is None or min(grid) < 2:
            if weight:
                self.gate.skip(extra_options, "too few tokens to merge")
            return inner(q, k, v)
        self.gate.weight(extra_options)
        destinations, sources = (tokens.to(q.device) for tokens in self._cells(grid, extra_options))
        count = min(count, len(sources))
        place, left = match(q, destinations, sources, count), q.shape[1] - count
        if k.shape[1] == q.shape[1]:
            k, v = merge(k, place, left), merge(v, place, left)
        return unmerge(inner(merge(q, place, left), k, v), place)

    def _cells(self, grid: tuple[int, int], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Draw anew in each step, the same for all blocks of one size."""
        if self.merging.destination == "random":
            return draw_cells(grid, step_generator(step_number(options, self.gate.memory(options))))
        return draw_cells(grid, None)
