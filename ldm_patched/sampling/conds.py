"""Conditioning tensors that know how to be cut to an area and joined into one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_CONTEXT_REPEATS = 4

Area = Sequence[int]  # (height, width, y, x)


def repeat_to_batch_size(tensor: Tensor, batch_size: int) -> Tensor:
    """Repeat or cut a tensor along its batch dimension."""
    repeats = math.ceil(batch_size / tensor.shape[0])
    return tensor.repeat(repeats, *[1] * (tensor.ndim - 1))[:batch_size] if repeats > 1 else tensor[:batch_size]


def spread_over_batch(tensor: Tensor, batch_size: int) -> Tensor:
    """Stretch or thin out a tensor along its batch dimension, keeping the order, as for the frames of a video."""
    have = tensor.shape[0]
    if batch_size == 1 or have == batch_size:
        return tensor[:batch_size]
    if batch_size < have:
        scale = (have - 1) / (batch_size - 1)
        return tensor[[round(i * scale) for i in range(batch_size)]]
    scale = have / batch_size
    return tensor[[int((i + 0.5) * scale) for i in range(batch_size)]]


def crop(tensor: Tensor, area: Area) -> Tensor:
    """Return the view of a tensor (b, c, h, w) inside an area."""
    dims = len(area) // 2
    for i in range(dims):
        tensor = tensor.narrow(tensor.ndim - dims + i, area[dims + i], area[i])
    return tensor


class CONDRegular:
    """A tensor with a batch dimension; equal shapes join."""

    def __init__(self, cond: Any) -> None:
        self.cond = cond

    def process_cond(self, batch_size: int, area: Area | None = None) -> CONDRegular:
        """Return this conditioning for a batch of latents and an area of them."""
        return type(self)(repeat_to_batch_size(self.cond, batch_size))

    def can_concat(self, other: CONDRegular) -> bool:
        """Return whether another one can stand in the same batch."""
        return bool(self.cond.shape == other.cond.shape and self.cond.device == other.cond.device)

    def concat(self, others: Sequence[CONDRegular]) -> Any:
        """Join into the value the model is called with."""
        return torch.cat([self.cond, *(other.cond for other in others)])

    def size(self) -> list[int]:
        """Return the shape, for the memory estimate."""
        return list(self.cond.shape)


class CONDNoiseShape(CONDRegular):
    """A tensor in the latent's own shape, cut to the area."""

    def process_cond(self, batch_size: int, area: Area | None = None) -> CONDRegular:
        """Return this conditioning for a batch of latents and an area of them."""
        cond = self.cond if area is None else crop(self.cond, area)
        return type(self)(repeat_to_batch_size(cond, batch_size))


class CONDCrossAttn(CONDRegular):
    """A context (b, tokens, c); cross-attention does not change when all tokens repeat, so lengths can be joined."""

    def can_concat(self, other: CONDRegular) -> bool:
        """Return whether another one can stand in the same batch without too much repetition."""
        mine, theirs = self.cond.shape, other.cond.shape
        if mine[0] != theirs[0] or mine[2] != theirs[2] or self.cond.device != other.cond.device:
            return False
        return bool(math.lcm(mine[1], theirs[1]) // min(mine[1], theirs[1]) <= MAX_CONTEXT_REPEATS)

    def concat(self, others: Sequence[CONDRegular]) -> Tensor:
        """Join after repeating every context to the least common multiple of the lengths."""
        contexts = [self.cond, *(other.cond for other in others)]
        length = math.lcm(*(context.shape[1] for context in contexts))
        return torch.cat([context.repeat(1, length // context.shape[1], 1) for context in contexts])


class CONDConstant(CONDRegular):
    """A value that is not batched; only equal ones join."""

    def process_cond(self, batch_size: int, area: Area | None = None) -> CONDRegular:
        """Return this conditioning unchanged."""
        return self

    def can_concat(self, other: CONDRegular) -> bool:
        """Return whether another one is equal."""
        if isinstance(self.cond, Tensor) and isinstance(other.cond, Tensor):
            return torch.equal(self.cond, other.cond)
        return bool(self.cond == other.cond)

    def concat(self, others: Sequence[CONDRegular]) -> Any:
        """Return the value itself."""
        return self.cond

    def size(self) -> list[int]:
        """Return a shape that costs nothing."""
        return [1]
