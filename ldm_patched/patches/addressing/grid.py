"""The tokens of a block as an image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def on_grid(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scale a mask (b, height, width) to the tokens of a block by the mean over each token's area: (b, h * w)."""
    return F.interpolate(mask[:, None], size=grid, mode="area").flatten(1)


def touched(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scale a mask (b, height, width) to the tokens of a block by the highest value in each one's area: (b, h * w)."""
    return F.adaptive_max_pool2d(mask, grid).flatten(1)


def blurred(x: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """Blur tokens (b, h * w, c) with a Gaussian over their grid; edges are mirrored."""
    image: Tensor = x.transpose(1, 2).unflatten(2, grid)  # (b, c, h, w)
    for dim in (2, 3):
        image = _blur_along(image, dim, sigma)
    return image.flatten(2).transpose(1, 2)


def _blur_along(image: Tensor, dim: int, sigma: float) -> Tensor:
    size = image.shape[dim]
    radius = min(math.ceil(3.0 * sigma), size - 1)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(image.dtype)
    rows = image.movedim(dim, -1)
    flat = F.pad(rows.reshape(-1, 1, size), (radius, radius), mode="reflect")
    return F.conv1d(flat, kernel.reshape(1, 1, -1)).reshape(rows.shape).movedim(-1, dim)
