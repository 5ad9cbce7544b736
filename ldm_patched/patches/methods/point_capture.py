"""Where a point of the picture looks: its self-attention, added up over a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from .capture import check_listener, listening
from .gate import Gate
from .gathered import Grid, Live, chosen_heads, gather
from .grid import token_grid
from .hook import AfterCfg, Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address

Point = tuple[float, float]  # x and y, from 0 at the left and the top to 1


@dataclass(frozen=True)
class PointCapture:
    """Add up what some points of the picture attend to in the blocks of `address` during `schedule`; changes nothing.

    `side` is the positive or negative pass. The curve weights the steps; no `heads` means all of them.
    Each step is shown in the `node` of the page, if any.

    Raises ValueError naming the value and the fix.
    """

    points: tuple[Point, ...]
    address: Address = field(default_factory=Address)
    schedule: Schedule = field(default_factory=Schedule)
    side: str = "positive"
    heads: tuple[int, ...] = ()
    node: str = ""
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = "attn1"

    def __post_init__(self) -> None:
        for x, y in self.points:
            if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
                raise ValueError(f"the point {x} {y} is outside the picture; x and y go from 0 to 1")
        check_listener(self.side, self.heads)
        self.address.narrowed(self.kind)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the points as text."""
        return tuple(f"{x:g} {y:g}" for x, y in self.points)

    @property
    def neutral(self) -> bool:
        """Tell whether there is nothing to gather."""
        return not self.points

    @property
    def name(self) -> str:
        """Describe the capture in one line."""
        return f"self-attention of {', '.join(self.labels)} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer that listens, and what shows each step in a node."""
        live = [AfterCfg(Live(self.node, host.show))] if self.node else []
        return [Around("attn1", PointLayer(self, gate)), *live]


def parse_points(text: str) -> tuple[Point, ...]:
    """Read points such as `0.3 0.5, 0.7 0.5`: x and y of each, parted by commas or lines.

    Raises ValueError naming the value and the fix.
    """
    points = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
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


def probabilities(
    q: Tensor, k: Tensor, heads: int, tokens: Sequence[int], some_heads: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return what some queries attend to, and the entropy of each head.

    q (b, n, h * d), k (b, m, h * d): (tokens, b, m), the mean over the heads, and (h,), the mean over tokens, in nats.
    """
    queries = q[:, list(tokens)].unflatten(-1, (heads, -1)).transpose(1, 2)  # (b, h, tokens, d)
    keys = k.unflatten(-1, (heads, -1)).transpose(1, 2)
    queries, keys = chosen_heads(queries, some_heads), chosen_heads(keys, some_heads)
    scores = queries.float() @ keys.transpose(-1, -2).float() * queries.shape[-1] ** -0.5
    weights = scores.softmax(-1)  # (b, h, tokens, m)
    entropy = -torch.xlogy(weights, weights).sum(-1).mean(dim=(0, 2))
    return weights.mean(1).transpose(0, 1), entropy


@dataclass(frozen=True)
class PointLayer:
    """A listener around the attention, which it leaves as it is."""

    method: PointCapture
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        sides, weight = listening(self.method.side, self.gate, q, extra_options)
        for side in sides:
            self._add(q[side], k[side], weight, extra_options)
        return inner(q, k, v)

    def _add(self, q: Tensor, k: Tensor, weight: float, options: Mapping[str, Any]) -> None:
        heads, some, own = options["n_heads"], self.method.heads, q.shape[1]
        if some and min(some) >= heads:
            return self.gate.skip(options, f"heads {some}: a block has {heads}")
        if k.shape[1] < own:
            return self.gate.skip(options, "another patch left out keys; put Capture Attention behind it")
        grid = token_grid(own, options)
        tokens = [token_of(point, grid) for point in self.method.points]
        attention, entropy = probabilities(q, k, heads, tokens, some)
        gather(self.gate, attention[..., :own] * weight, entropy, grid, options)  # more keys are other pictures'
