"""Run a VAE in overlapping tiles, on ComfyUI's grid and with its blending.

Shapes: b images, c channels, h and w of the input, c', h * scale and w * scale of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def averaged_tiles(
    batch: Tensor, function: Callable[[Tensor], Tensor], tile: int, overlap: int, scale: float
) -> Tensor:
    """Return the mean over high, wide and square tiles, so that no seam stays at the same place."""
    shapes = ((tile * 2, tile // 2), (tile // 2, tile * 2), (tile, tile))
    first, second, third = (tiled(batch, function, shape, overlap, scale) for shape in shapes)
    return (first + second + third) / 3.0


def tiled(
    batch: Tensor, function: Callable[[Tensor], Tensor], tile: tuple[int, int], overlap: int, scale: float
) -> Tensor:
    """Apply a function of (1, c, h, w) to (b, c, h, w) in tiles of (height, width), image by image.

    Every result is weighted by a ramp that rises over the overlap, so that neighbouring tiles fade into each other.
    Raises ValueError when a tile is no larger than its overlap.
    """
    for size, length in zip(batch.shape[2:], tile, strict=True):
        if size > length and length <= overlap:
            raise ValueError(f"tiles of {tile} are too small for an overlap of {overlap}; choose a smaller overlap")
    return torch.cat([_tiled_image(image, function, tile, overlap, scale) for image in batch.split(1)])


def _tiled_image(
    image: Tensor, function: Callable[[Tensor], Tensor], tile: tuple[int, int], overlap: int, scale: float
) -> Tensor:
    total, weight = None, None
    starts = [_starts(size, length, overlap) for size, length in zip(image.shape[2:], tile, strict=True)]
    for y, x in product(*starts):
        part = function(image[..., y : y + tile[0], x : x + tile[1]])
        if total is None or weight is None:
            if len(starts[0]) == len(starts[1]) == 1:
                return part
            height, width = (round(size * scale) for size in image.shape[2:])
            total = part.new_zeros(1, part.shape[1], height, width)
            weight = part.new_zeros(1, 1, height, width)
        top, left = round(y * scale), round(x * scale)
        here = (..., slice(top, top + part.shape[2]), slice(left, left + part.shape[3]))
        mask = _ramps(part, round(overlap * scale))
        total[here] += part * mask
        weight[here] += mask
    if total is None or weight is None:
        raise ValueError(f"nothing to do for an empty picture of shape {tuple(image.shape)}")
    return total / weight


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    return list(range(0, size - overlap, tile - overlap)) if size > tile else [0]


def _ramps(part: Tensor, overlap: int) -> Tensor:
    """Return weights (1, 1, h, w) that rise from every edge over the overlap."""
    rows, columns = (_ramp(size, overlap).to(part) for size in part.shape[2:])
    return (rows[:, None] * columns[None, :])[None, None]


def _ramp(size: int, overlap: int) -> Tensor:
    if overlap >= size:
        return torch.ones(size)
    rise = ((torch.arange(size) + 1) / max(1, overlap)).clamp(max=1.0)
    return rise * rise.flip(0)
