"""Fewer tokens in self-attention: similar ones are merged before it and get the same result after it.

Token Merging for Fast Stable Diffusion (Bolya & Hoffman 2023, arXiv 2303.17604).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, choice, method, number
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner, merged, split
from .key_value_downsampling import OUTSIDE_MIDDLE

DESTINATIONS = ("random", "top-left")
LARGEST_RATIO = 0.75  # of the four tokens of a cell one is left


@method(
    node="PatchbayTokenMerging",
    title="Token Merging",
    text="Run self-attention on fewer tokens: similar ones are merged before it and share its result. Faster the "
    "larger the picture, at some cost in detail.",
    aliases=("ToMe", "tomesd", "TomePatchModel", "merge tokens", "faster", "speed", "low vram"),
    gives="with merged tokens",
)
class TokenMerging(Method):
    """Merge similar tokens around self-attention.

    Every cell of 2x2 tokens has one destination, drawn anew in each step (`random`, the same draws in every run) or
    its `top-left`. The other tokens look for the destination with the most similar queries. The `ratio` of all tokens
    that are most like theirs are merged with it, attention runs on what is left, and its result is copied to all that
    were merged; on transformers a merged token stands where its destination does. The paper merges what is projected to
    q, k and v; the projections are linear and without bias, so the mean of projected tokens is the projection of their
    mean, and merging after them is the same.

    `ratio` times the curve of the schedule is the part of the tokens that is merged; 0 changes nothing, to the bit.
    """

    ratio: float = number(
        0.5,
        0.0,
        LARGEST_RATIO,
        step=0.01,
        tip="The part of the tokens that is merged away; 0 changes nothing, 0.75 leaves one of four.",
    )
    destination: str = choice(
        DESTINATIONS,
        "random",
        tip="The token of each 2x2 cell that others merge into: random in each step (the same in every run), or always "
        "the top-left one.",
    )
    where: Where = acts(OUTSIDE_MIDDLE, kind="self")

    def check(self) -> None:
        """Refuse a ratio or destination that is none."""
        if not 0.0 <= self.ratio <= LARGEST_RATIO:
            raise Refused(f"ratio is {self.ratio}; give a number from 0 to {LARGEST_RATIO}: one of four stays", "ratio")
        if self.destination not in DESTINATIONS:
            raise Refused(
                f"unknown destination {self.destination!r}; choose one of {', '.join(DESTINATIONS)}", "destination"
            )

    @property
    def neutral(self) -> bool:
        """Return whether it can never change anything."""
        return self.ratio == 0.0

    @property
    def before_positions(self) -> bool:
        """Return that it mixes queries and keys."""
        return True

    @property
    def pictured(self) -> bool:
        """Return that it chooses tokens by their place in a picture."""
        return True

    @property
    def piecemeal(self) -> bool:
        """Return that it attends with what is left of the tokens."""
        return True

    @property
    def label(self) -> str:
        """Describe it."""
        fixed = "" if self.destination == "random" else f" to {self.destination}"
        return f"token merging {self.ratio:g}{fixed}"

    def count(self, site: Site) -> int:
        """Return how many tokens are merged away."""
        return int(self.ratio * site.weight * site.tokens)

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return why there is nothing to merge."""
        grid = site.area if self.count(site) else None
        return "too few tokens to merge" if grid is None or min(grid) < 2 else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with what is left, and copy the result to all that were merged."""
        grid, heads = site.area, q.shape[1]
        assert grid is not None  # it would be idle
        generator = site.generator() if self.destination == "random" else None
        grid = (site.frames * grid[0], grid[1])
        destinations, sources = (tokens.to(q.device) for tokens in draw_cells(grid, generator))
        place = match(merged(site.bare(q)), destinations, sources, min(self.count(site), len(sources)))
        left = site.tokens - min(self.count(site), len(sources))

        def fewer(x: Tensor) -> Tensor:
            return split(merge(merged(x), place, left), heads)

        kept = partial(leaders, place, sources, destinations, left)
        if k.shape[2] == site.tokens:
            k, v = site.before_positions(k, fewer, kept), fewer(v)
        out = inner(site.before_positions(q, fewer, kept), k, v)
        return split(unmerge(merged(out), place), heads)


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


def leaders(place: Tensor, sources: Tensor, destinations: Tensor, left: int) -> Tensor:
    """Return which token (b, left) each place is known by: its destination, or the source that stays by itself."""
    found = torch.zeros(len(place), left, dtype=torch.long, device=place.device)
    for some in (sources, destinations):  # a destination goes before what is merged with it
        found.scatter_(1, place[:, some], some.expand(len(place), -1))
    return found


def merge(x: Tensor, place: Tensor, left: int) -> Tensor:
    """Take the mean of the tokens (b, n, c) at each place (b, n): (b, left, c)."""
    rows = _rows(place, left)
    flat = x.flatten(0, 1).float()  # half precision would lose count of many tokens
    sums = flat.new_zeros(len(x) * left, x.shape[2]).index_add_(0, rows, flat)
    counts = flat.new_zeros(len(sums), 1).index_add_(0, rows, flat.new_ones(len(flat), 1))
    means: Tensor = (sums / counts).to(x.dtype).unflatten(0, (len(x), left))
    return means


def unmerge(x: Tensor, place: Tensor) -> Tensor:
    """Copy merged tokens (b, left, c) to each of the tokens (b, n, c) that went into them."""
    copies: Tensor = x.flatten(0, 1)[_rows(place, x.shape[1])].unflatten(0, place.shape)
    return copies


def _rows(place: Tensor, left: int) -> Tensor:
    """Number the places (b, n) through the batch: (b * n)."""
    return (place + left * torch.arange(len(place), device=place.device)[:, None]).flatten()
