"""Draw captioned objects as anti-aliased pictures on a plain background."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...ldm_patched.demo import SIZE
from ...ldm_patched.demo.captions import Thing

Array = NDArray[np.float32]

RGB: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.25, 0.88),
    "yellow": (0.96, 0.80, 0.10),
    "purple": (0.60, 0.15, 0.75),
    "black": (0.08, 0.08, 0.08),
}
BACKGROUND = 0.95
CENTRES = {"left": (0.21, 0.5), "right": (0.79, 0.5), "top": (0.5, 0.21), "bottom": (0.5, 0.79), "center": (0.5, 0.5)}
HOLE = 0.4  # of a ring, as a share of its radius: the autoencoder draws larger ones in wrong colours
RADII = {1: (0.12, 0.18), 2: (0.10, 0.12)}  # by the number of objects, as a share of the side

# Signed distances to shapes of radius 1, negative inside, after Inigo Quilez


def _circle(x: Array, y: Array) -> Array:
    return (np.hypot(x, y) - 1.0).astype(np.float32)


def _square(x: Array, y: Array) -> Array:
    return (np.maximum(np.abs(x), np.abs(y)) - 0.9).astype(np.float32)


def _triangle(x: Array, y: Array) -> Array:
    sides = (2.0 * np.abs(x) - (y + 1.0)) / math.sqrt(5.0)
    return np.maximum(sides, y - 1.0)


def _cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 1.0, y - 0.34), np.maximum(x - 0.34, y - 1.0))


def _ring(x: Array, y: Array) -> Array:
    distance = np.hypot(x, y)
    return np.maximum(distance - 1.0, HOLE - distance).astype(np.float32)


# A ring is in no caption, and in no picture that the checkpoint was trained on
DISTANCE = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "ring": _ring}


def coverage(shape: str, cx: float, cy: float, radius: float, size: int = SIZE) -> Array:
    """Give the share of every pixel a shape covers, (size, size) in 0..1."""
    axis = np.arange(size, dtype=np.float32) + 0.5
    x, y = (axis[None, :] - cx) / radius, (axis[:, None] - cy) / radius
    return np.clip(0.5 - DISTANCE[shape](x, y) * radius, 0.0, 1.0).astype(np.float32)


def draw(things: Sequence[Thing], rng: random.Random, size: int = SIZE) -> tuple[Array, Array]:
    """Draw fully described objects with some play in place and size.

    Returns the picture (size, size, 3) in 0..1 and the objects' masks (objects, size, size).
    """
    shade = BACKGROUND + rng.uniform(-0.02, 0.02)
    picture = np.full((size, size, 3), shade, dtype=np.float32)
    masks = []
    for thing in things:
        assert thing.colour is not None and thing.place is not None
        cx, cy = (size * (part + rng.uniform(-0.02, 0.02)) for part in CENTRES[thing.place])
        mask = coverage(thing.shape, cx, cy, size * rng.uniform(*RADII[len(things)]), size)
        picture += mask[..., None] * (np.array(RGB[thing.colour], dtype=np.float32) - picture)
        masks.append(mask)
    return picture, np.stack(masks)
