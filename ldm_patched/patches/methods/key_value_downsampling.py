"""Fewer keys and values in self-attention, the queries all stay.

ToDo: Token Downsampling for Efficient Generation of High-Resolution Images (Smith et al. 2024, arXiv 2402.13573).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, choice, method, whole
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner, merged, split

OUTSIDE_MIDDLE = "input, output"  # the middle has the fewest tokens


@method(
    node="PatchbayKeyValueDownsampling",
    title="Key/Value Downsampling",
    text="Let every token attend to a smaller picture in self-attention: faster for large pictures with less loss of "
    "detail than merging, as all queries stay.",
    aliases=("ToDo", "token downsampling", "kv downsampling", "large pictures", "faster", "speed", "low vram"),
    gives="with fewer keys and values",
)
class KeyValueDownsampling(Method):
    """Attend to a smaller image in self-attention.

    Keys and values are taken from every `factor`-th token of each row and column (`nearest`, as in the paper), or from
    the `mean` of each cell of factor x factor tokens. A last cell at an edge that the factor does not divide is
    smaller. Both are linear in the tokens, so that they do the same before the bias-free projections and after them.

    The curve of the schedule scales the factor, rounded to whole numbers; a factor of 1 changes nothing, to the bit.
    """

    factor: int = whole(
        2,
        1,
        16,
        tip="How much smaller in height and width: 2 leaves a quarter of the keys; 1 changes nothing.",
    )
    method: str = choice(
        ("nearest", "mean"),
        "nearest",
        tip="nearest: the first token of each cell. mean: the mean of the cell, which flattens the attention.",
    )
    where: Where = acts(OUTSIDE_MIDDLE, kind="self")

    def check(self) -> None:
        """Refuse a factor or a method that is none."""
        if self.factor < 1 or self.factor != int(self.factor):
            raise Refused(f"factor is {self.factor}; give a whole number, 1 for no change", "factor")
        if self.method not in MATHS:
            raise Refused(f"unknown method {self.method!r}; choose one of {', '.join(MATHS)}", "method")

    @property
    def neutral(self) -> bool:
        """Return whether it can never change anything."""
        return self.factor == 1

    @property
    def before_positions(self) -> bool:
        """Return whether it mixes keys."""
        return self.method == "mean"

    @property
    def pictured(self) -> bool:
        """Return that it scales a picture of tokens."""
        return True

    @property
    def label(self) -> str:
        """Describe it."""
        return f"keys and values / {self.factor} {self.method}"

    def factor_now(self, site: Site) -> int:
        """Return the factor of the current step."""
        return int(self.factor * site.weight + 0.5)

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return why there is nothing to leave out."""
        factor = self.factor_now(site)
        grid = site.but(tokens=k.shape[2]).area if factor > 1 else None
        return "too few tokens, or a factor of 1 by the curve" if grid is None or min(grid) < factor else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend to fewer keys and values."""
        grid, smaller, factor = site.but(tokens=k.shape[2]).area, MATHS[self.method], self.factor_now(site)
        assert grid is not None  # it would be idle

        def fewer(x: Tensor) -> Tensor:
            return split(site.each_frame(merged(x), lambda x: smaller(x, grid, factor)), q.shape[1])

        def first_of_cells() -> Tensor:
            tokens = torch.arange(k.shape[2], device=k.device).view(1, -1, 1)
            return site.each_frame(tokens, lambda x: nearest(x, grid, factor)).flatten()

        new_k, v = site.before_positions(k, fewer, first_of_cells) if self.before_positions else fewer(k), fewer(v)
        return inner(q, new_k, v, site.but(fewer=(-(-grid[0] // factor), -(-grid[1] // factor))))


def nearest(x: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Take the first token of each cell of (b, h * w, c)."""
    picture: Tensor = x.unflatten(1, grid)  # (b, h, w, c)
    return picture[:, ::factor, ::factor].flatten(1, 2)


def mean(x: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Take the mean of each cell of (b, h * w, c); cells at the edge may be smaller."""
    image = x.transpose(1, 2).unflatten(2, grid)  # (b, c, h, w)
    return F.avg_pool2d(image, factor, ceil_mode=True).flatten(2).transpose(1, 2)


MATHS = {"nearest": nearest, "mean": mean}
