"""A Brownian path that is a function of its seed alone, queried in any order (the virtual tree of Li et al., 2020).

The path between two times is known as soon as its ends are: the middle is Gaussian around their mean. Each node of the
dyadic tree over the whole interval draws its middle from a seed of its own. Seeds and rounding are those of torchsde,
so that equal seeds give equal paths there and here.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

DIGITS = 6  # times are resolved to a millionth
POOL_SIZE = 24


class BrownianTree:
    """The increments of a path in the shape of `like`, between two times."""

    def __init__(self, start: float, end: float, like: Tensor, entropy: int) -> None:
        self.start, self.end = round(start, DIGITS), round(end, DIGITS)
        self.shape, self.dtype = like.shape, like.dtype
        self.entropy = entropy
        self.whole = self._normal((), 3) * math.sqrt(end - start)

    def __call__(self, start: float, end: float) -> Tensor:
        """Return the increment from an earlier to a later time, as a CPU tensor."""
        window = (round(max(start, self.start), DIGITS), round(min(end, self.end), DIGITS))
        return self._increment((self.start, self.end), (0, 0), self.whole, window)

    def _increment(
        self, span: tuple[float, float], node: tuple[int, int], whole: Tensor, window: tuple[float, float]
    ) -> Tensor:
        start, end = span
        if window[0] <= start and end <= window[1]:
            return whole
        middle = round((start + end) / 2, DIGITS)
        before, after = middle - start, end - middle
        first = whole * (before / (end - start)) + self._normal(node, 4) * math.sqrt(before * after / (end - start))
        key, depth = 2 * node[0], node[1] + 1
        total = torch.zeros_like(whole)
        if window[0] < middle:
            total = total + self._increment((start, middle), (key, depth), first, window)
        if window[1] > middle:
            total = total + self._increment((middle, end), (key + 1, depth), whole - first, window)
        return total

    def _normal(self, node: tuple[int, ...], states: int) -> Tensor:
        sequence = np.random.SeedSequence(self.entropy, spawn_key=node, pool_size=POOL_SIZE)
        generator = torch.Generator().manual_seed(int(sequence.generate_state(states)[0]))
        return torch.randn(self.shape, dtype=self.dtype, generator=generator)
