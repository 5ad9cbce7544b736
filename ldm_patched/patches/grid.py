"""The tokens of a block as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def token_grid(tokens: int, options: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the tokens of the current block.

    Raises ValueError where another patch has changed their number, or they are those of a video.
    """
    if "activations_shape" not in options:
        raise ValueError(f"{tokens} tokens are no single picture: this needs one, without frames or reference pictures")
    height, width = options["activations_shape"][-2:]
    if height * width != tokens:
        raise ValueError(
            f"{tokens} tokens are no {height}x{width} picture: another patch merged or cut them in this block; take "
            "the block out of one of them, or put this node behind that one"
        )
    return height, width


PIECE = "patchbay_piece"  # the grid of each tile, for the layers inside one that cuts the picture
CUT = "patchbay_cut"  # a foreign patch has cut the queries into tiles, nobody knows which


def piece_grid(x: Tensor, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of the tokens (b, n, c) that a layer gets: the whole picture, or one tile of it.

    None in a video model's attention over time, whose tokens are frames. Raises ValueError where another patch has
    changed their number.
    """
    piece: tuple[int, int] | None = options.get(PIECE)
    if piece is not None and math.prod(piece) == x.shape[1]:
        return piece
    return None if over_time(x, options) else token_grid(x.shape[1], options)


def over_time(x: Tensor, options: Mapping[str, Any]) -> bool:
    """Tell whether tokens (b, n, c) are the frames of a video, with its pixels in the batch."""
    batch, tokens = x.shape[:2]
    frames, _, height, width = options["activations_shape"]
    if PIECE in options or CUT in options:
        return False
    return height * width != tokens and batch * tokens == frames * height * width


def on_grid(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scale a mask (b, height, width) to the tokens of a block by the mean over each token's area: (b, h * w)."""
    return F.interpolate(mask[:, None], size=grid, mode="area").flatten(1)


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
