"""Pictures of one seed with and without patches, side by side: how far they are apart, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .heatmap import SHOWN, overlay, url

SIDE = 768  # pixels of the longest side, on the page


def apart(pictures: Tensor, others: Tensor) -> Tensor:
    """Return how far each pixel is from that of the picture, (n * b, h, w) of 0..1, the mean of the colours.

    `pictures` are (b, h, w, 3), `others` (n * b, h, w, 3): n times as many. Raises ValueError for another size.
    """
    if pictures.shape[1:] != others.shape[1:] or len(others) % len(pictures):
        sizes = " and ".join(f"{len(some)} of {some.shape[2]} x {some.shape[1]}" for some in (pictures, others))
        raise ValueError(f"only pictures of one size and number can be compared, and these are {sizes}")
    times = len(others) // len(pictures)
    return (others[..., :3] - pictures[..., :3].repeat(times, 1, 1, 1)).abs().mean(-1)


def heatmaps(distances: Tensor) -> Tensor:
    """Paint distances (n, h, w), all on the scale of the largest: (n, h, w, 3)."""
    return overlay(distances / distances.max().clamp(min=1e-9), None, 1.0)


def told(names: Sequence[str], distances: Tensor) -> str:
    """Say how far the pictures of each name are, in percent from black to white."""
    lines = []
    for name, part in zip(names, distances.chunk(len(names)), strict=True):
        if not part.any():
            lines.append(f"{name}: no pixel differs")
        else:
            changed = (part > 0.5 / 255).float().mean()  # of what a file of 8 bits can show
            far = f"{part.mean():.2%} apart, {part.max():.0%} at most"
            lines.append(f"{name}: {far}; {changed:.0%} of the pixels differ")
    return "\n".join(lines)


def view(pictures: Tensor, others: Tensor, names: Sequence[str], distances: Tensor, maps: Tensor) -> dict[str, Any]:
    """Return the comparison as JSON for the viewer of the page; `highest` is the brightest of the heatmaps."""
    groups = zip(names, *(some.chunk(len(names)) for some in (others, maps, distances)), strict=True)
    return {
        "pictures": _urls(pictures),
        "highest": distances.max().item(),
        "others": [
            {"name": name, "pictures": _urls(some), "differences": _urls(painted), "mean": far.mean((1, 2)).tolist()}
            for name, some, painted, far in groups
        ],
    }


def _urls(pictures: Tensor) -> list[str]:
    return [url(picture, SIDE) for picture in pictures[:SHOWN]]
