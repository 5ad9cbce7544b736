"""Self-attention in overlapping windows, a weaker model for guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .grid import PIECE, over_time, token_grid
from .stack import Inner


@dataclass(frozen=True)
class SlidingWindow:
    """Every token attends within windows of the picture only: sliding-window guidance (Kaiser et al. 2024, arXiv
    2411.10257).

    `size` is the side of a window as a part of the picture's, `overlap` the part of it that neighbours share at least;
    results are averaged where windows overlap. The paper crops the whole input of the model; this crops what the
    self-attention of the chosen blocks sees, and leaves convolutions and a video's attention over time as they are.

    Raises ValueError naming the value and the fix.
    """

    size: float = 0.5
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.size <= 1.0:
            raise ValueError(f"size is {self.size}; give a part of the picture above 0, up to 1")
        if not 0.0 <= self.overlap < 1.0:
            raise ValueError(f"overlap is {self.overlap}; give a part of the window from 0, below 1")

    @property
    def name(self) -> str:
        """Describe the method."""
        return f"sliding-window {self.size:g}/{self.overlap:g}"

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Attend in each window and average."""
        if over_time(q, options):
            return inner(q, k, v)
        height, width = token_grid(q.shape[1], options)
        places = torch.arange(height * width, device=q.device).view(height, width)
        total, times = torch.zeros_like(v), v.new_zeros(height * width, 1)
        for rows in windows(height, self.size, self.overlap):
            for columns in windows(width, self.size, self.overlap):
                window = places[rows, columns]
                some = window.flatten()
                below = {**options, PIECE: tuple(window.shape)}
                total[:, some] += inner(q[:, some], k[:, some], v[:, some], below)
                times[some] += 1.0
        return total / times


def windows(length: int, size: float, overlap: float) -> list[slice]:
    """Return evenly spread windows over a side of the picture that cover it and overlap by `overlap` at least."""
    side = min(length, max(1, round(size * length)))
    step = max(1, int(side * (1.0 - overlap)))
    count = 1 + -(-(length - side) // step)
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)] if count > 1 else [0]
    return [slice(start, start + side) for start in starts]
