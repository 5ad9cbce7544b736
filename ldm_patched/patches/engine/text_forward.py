"""What some networks make of a text by its length, for texts of several lengths in one batch.

All stand in the place of the forward of a module in front of the blocks, and do nothing in a call without such texts.
Texts that end together leave positions as they are between a text and its image. What counts from elsewhere is moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..addressing.families import Family
from ..patcher import Patcher
from .block_forward import NETWORK, OnForward, called
from .rows import ROWS, Rows
from .tokens import TOKENS


class Outside(NamedTuple):
    """What these forwards call from outside of compiled graphs, which would be compiled anew in each step."""

    padded: Callable[[Tensor, Tensor], Tensor]
    padding: Callable[[Tensor], Tensor]
    text: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Padded(OnForward):
    """The forward of what embeds a text; behind each text the token that the network has learned to stand there."""

    net: Any
    token: str
    padded: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.padded(self.forward(x), getattr(self.net, self.token))


@dataclass(frozen=True)
class Placed(OnForward):
    """The forward of what makes rotations of positions (b, n, axes), from those of each row's own text."""

    placed: Callable[[Tensor], Tensor]

    def __call__(self, positions: Tensor) -> Any:
        return self.forward(self.placed(positions))


def padded(x: Tensor, token: Tensor) -> Tensor:
    """Return texts (b, n, c) with a token (1, c) wherever the network would have put it behind a text."""
    rows = called().get(ROWS)
    if not isinstance(rows, Rows) or not any(rows.pads) or x.shape[:2] != (rows.total, rows.tokens):
        return x
    x = x.clone()
    for (some, _), pads in zip(rows.texts, rows.pads, strict=True):
        x[some, x.shape[1] - pads :] = token.to(x)
    return x


def padding(positions: Tensor) -> Tensor:
    """Return positions (b, n, axes) of each row, where Z-Image has what fills an image up at 0 in front of the text."""
    rows, tokens = called().get(ROWS), called().get(TOKENS)
    if not isinstance(rows, Rows) or not rows.uneven or not tokens or not tokens.padding:
        return positions
    front = (positions == 0).all(-1)  # (1, n)
    positions = positions.expand(rows.total, -1, -1).clone()
    for some, own in rows.texts:
        positions[some, :, 0] += front * (rows.tokens - own)
    return positions


def text(positions: Tensor) -> Tensor:
    """Return positions (b, n, axes), where Omnigen2 counts a text from 0 on each axis, and its image on the first."""
    rows = called().get(ROWS)
    if not isinstance(rows, Rows) or not rows.uneven:
        return positions
    positions = positions.clone()
    for some, own in rows.texts:
        positions[some, : rows.tokens, 1:] -= rows.tokens - own
    return positions


@cache
def outside() -> Outside:
    """Return all of them; the first time loads torch's compiler."""
    return Outside(*map(torch.compiler.disable, (padded, padding, text)))


def tell_lengths(clone: Patcher, family: Family) -> None:
    """Let a clone's network make of each text what it makes of that alone; once for each clone."""
    net = clone.model.diffusion_model
    if family.pads and hasattr(net, family.pads[1]):
        module, token = family.pads
        _put(clone, module, lambda forward: Padded(forward, net, token, outside().padded))
        _put(clone, "rope_embedder", lambda forward: Placed(forward, outside().padding))
    if family.counts:
        _put(clone, family.counts, lambda forward: Placed(forward, outside().text))


def _put(clone: Patcher, module: str, made: Callable[[Callable[..., Any]], OnForward]) -> None:
    path = f"{NETWORK}.{module}.forward"
    forward = clone.get_model_object(path)
    if not isinstance(forward, (Padded, Placed)):
        clone.add_object_patch(path, made(forward))
