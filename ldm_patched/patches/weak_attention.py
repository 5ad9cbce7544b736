"""Ways to weaken self-attention for guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .stack import Inner


@dataclass(frozen=True)
class Perturbed:
    """Every token attends to itself alone: perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377)."""

    name: str = "perturbed-attention"

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the values themselves, what an identity attention matrix gives."""
        return v


@dataclass(frozen=True)
class SmoothedEnergy:
    """The queries are blurred over the picture: smoothed-energy guidance (Hong 2024, arXiv 2408.00760).

    `sigma` is the deviation of the Gaussian in tokens; infinity blurs to the mean.

    Raises ValueError naming the value and the fix.
    """

    sigma: float = math.inf

    def __post_init__(self) -> None:
        if not self.sigma > 0.0:  # also for NaN
            raise ValueError(f"blur is {self.sigma}; give a number above 0, or inf for the mean over the picture")

    @property
    def name(self) -> str:
        """Describe the method."""
        return f"smoothed-energy {self.sigma:g}"

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Attend with blurred queries."""
        if math.isinf(self.sigma):
            return inner(q.mean(dim=1, keepdim=True).expand_as(q), k, v)
        return inner(blurred(q, token_grid(q.shape[1], options), self.sigma), k, v)


def token_grid(tokens: int, options: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the tokens of the current block.

    Raises ValueError where another patch has changed their number.
    """
    height, width = options["activations_shape"][-2:]
    if height * width != tokens:
        raise ValueError(
            f"{tokens} tokens are no {height}x{width} picture: another patch merged or cut them in this block; take "
            "the block out of one of them, or blur with inf, which needs no picture"
        )
    return height, width


def blurred(x: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """Blur tokens (b, h * w, c) with a Gaussian over their grid; edges are mirrored."""
    picture = x.transpose(1, 2).unflatten(2, grid)  # (b, c, h, w)
    for dim in (2, 3):
        picture = _blur_along(picture, dim, sigma)
    return picture.flatten(2).transpose(1, 2)


def _blur_along(picture: Tensor, dim: int, sigma: float) -> Tensor:
    size = picture.shape[dim]
    radius = min(math.ceil(3.0 * sigma), size - 1)
    offsets = torch.arange(-radius, radius + 1, device=picture.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(picture.dtype)
    rows = picture.movedim(dim, -1)
    flat = F.pad(rows.reshape(-1, 1, size), (radius, radius), mode="reflect")
    return F.conv1d(flat, kernel.reshape(1, 1, -1)).reshape(rows.shape).movedim(-1, dim)
