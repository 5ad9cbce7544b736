"""Where a point of the image looks: its self-attention, added up over a run."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..addressing.refused import readable
from ..addressing.where import Where
from ..engine.declaration import acts, choice, hidden, method
from ..engine.gathering import Grid, gather
from ..engine.scores import chosen_heads, with_beside
from ..engine.sides import SIDES
from ..engine.site import Site
from .capture import SIDE, Listener, Result

Point = tuple[float, float]  # x and y, from 0 at the left and the top to 1


@method()
class PointCapture(Listener):
    """Add up what some points of the image attend to; changes nothing.

    `side` is the cond (positive) or the uncond (negative). The curve weights the steps; no `heads` means all of them.
    Each step is shown in the `node` of the page, if any.
    """

    points: tuple[Point, ...] = hidden()
    where: Where = acts(kind="self")
    side: str = choice(SIDES, "positive", optional=True, tip=SIDE)
    heads: tuple[int, ...] = hidden(())
    node: str = hidden("")
    slot_listened: ClassVar[str] = "attn1"

    def check(self) -> None:
        """Refuse points outside the image."""
        for x, y in self.points:
            if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
                raise ValueError(f"the point {x} {y} is outside the picture; x and y go from 0 to 1")
        super().check()

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the points as text."""
        return tuple(f"{x:g} {y:g}" for x, y in self.points)

    def only(self, index: int) -> PointCapture:
        """Return the capture of one of the points."""
        return replace(self, points=(self.points[index],))

    @property
    def label(self) -> str:
        """Describe the capture."""
        return f"self-attention of {', '.join(self.labels)}"

    def listen(self, site: Site, q: Tensor, k: Tensor, result: Result, place: int) -> None:
        """Add up what the points attend to."""
        own = site.tokens
        if k.shape[2] < own:
            return site.skip("another patch left out keys; put Capture Attention behind it")
        grid = site.image_grid
        frame = site.frames // 2 * math.prod(grid)  # of a video the one in the middle looks
        tokens = [frame + token_of(point, grid) for point in self.points]
        attention, entropy = point_weights(q, with_beside(k, site.beside), tokens, self.heads)
        gather(site, attention[..., :own] * site.weight, entropy, grid)  # more keys are other images'


def parse_points(text: str) -> tuple[Point, ...]:
    """Read points such as `0.3 0.5, 0.7 0.5`: x and y of each, separated by commas or lines.

    Raises ValueError naming the value and the fix.
    """
    points = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", readable(text, "points")))):
        try:
            x, y = map(float, part.split())
        except ValueError:
            raise ValueError(f"{part!r} is no point; write x and y from 0 to 1, such as 0.3 0.5") from None
        points.append((x, y))
    return tuple(points)


def token_of(point: Point, grid: Grid) -> int:
    """Return which token of a grid a point falls on."""
    height, width = grid
    return min(int(point[1] * height), height - 1) * width + min(int(point[0] * width), width - 1)


def point_weights(q: Tensor, k: Tensor, tokens: Sequence[int], heads: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """Return what some queries attend to, and the entropy of each head.

    q (b, h, n, d), k (b, h, m, d): (tokens, b, m), the mean over the heads, and (h,), the mean over tokens, in nats.
    """
    queries, keys = chosen_heads(q[:, :, list(tokens)], heads), chosen_heads(k, heads)
    scores = queries.float() @ keys.transpose(-1, -2).float() * queries.shape[-1] ** -0.5
    weights = scores.softmax(-1)  # (b, h, tokens, m)
    entropy = -torch.xlogy(weights, weights).sum(-1).mean(dim=(0, 2))
    return weights.mean(1).transpose(0, 1), entropy
