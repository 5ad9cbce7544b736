"""Decide from the pixels alone whether a picture shows what its caption says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from ...ldm_patched.demo.captions import SHAPES, Thing
from .picture import BACKGROUND, CENTRES, RGB, coverage

COLOUR_REACH = 0.30  # largest distance in RGB at which a pixel still counts as of a colour
SMALLEST = 0.012  # smallest object, as a share of the picture
PLACE_REACH = 0.13  # largest distance of an object's middle from the named place, as a share of the side
SHAPE_OVERLAP = 0.75  # smallest overlap with the ideal shape
SMALLEST_HOLE = 0.04  # of a ring, as a share of all within its outline

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """One object found in a picture; `shape` and `place` are None when nothing fits well."""

    colour: str
    shape: str | None
    place: str | None


def segments(picture: NDArray[np.float32]) -> dict[str, Mask]:
    """Give every colour's pixels: the nearest of all colours and the background, and near enough."""
    table = np.array([*RGB.values(), (BACKGROUND,) * 3], dtype=np.float32)
    distance = np.linalg.norm(picture[:, :, None, :] - table, axis=-1)  # (h, w, colours + 1)
    nearest, near = distance.argmin(-1), distance.min(-1) < COLOUR_REACH
    return {name: (nearest == i) & near for i, name in enumerate(RGB)}


def components(mask: Mask) -> list[Mask]:
    """Split a mask into its 4-connected parts."""
    left = mask.copy()
    parts = []
    height, width = mask.shape
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        part = np.zeros_like(mask)
        left[start] = False
        queue = deque([start])
        while queue:
            y, x = queue.popleft()
            part[y, x] = True
            for at in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= at[0] < height and 0 <= at[1] < width and left[at]:
                    left[at] = False
                    queue.append(at)
        parts.append(part)
    return parts


def shape_of(part: Mask) -> str | None:
    """Name the ideal shape of the same bounding box that overlaps best."""
    ys, xs = np.nonzero(part)
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    if not 0.7 < (bottom - top) / (right - left) < 1.4:
        return None
    best, name = SHAPE_OVERLAP, None
    for shape in SHAPES:
        radius = (bottom - top + right - left) / (3.6 if shape == "square" else 4.0)
        ideal = coverage(shape, (left + right) / 2, (top + bottom) / 2, radius, len(part)) > 0.5
        overlap = (ideal & part).sum() / (ideal | part).sum()
        if overlap > best:
            best, name = overlap, shape
    return name


def place_of(part: Mask) -> str | None:
    """Name the place nearest to the middle of the bounding box."""
    ys, xs = np.nonzero(part)
    middle = np.array([xs.min() + xs.max() + 1, ys.min() + ys.max() + 1]) / 2 / len(part)
    distance = {place: float(np.hypot(*(middle - centre))) for place, centre in CENTRES.items()}
    nearest = min(distance, key=distance.__getitem__)
    return nearest if distance[nearest] < PLACE_REACH else None


def look(picture: NDArray[np.float32]) -> list[Seen]:
    """Find the objects of a picture (h, w, 3) in 0..1."""
    found = []
    for colour, mask in segments(picture).items():
        for part in components(mask):
            if part.sum() >= SMALLEST * part.size:
                found.append(Seen(colour, shape_of(part), place_of(part)))
    return found


def look_at_wholes(picture: NDArray[np.float32]) -> list[Seen]:
    """Find the objects of a picture whatever colours they have: each has that of most of its pixels.

    One with a hole is a `ring`; the autoencoder, which was trained without any, gives them more than one colour.
    """
    distance = np.linalg.norm(picture[:, :, None, :] - np.array(list(RGB.values()), dtype=np.float32), axis=-1)
    nearest, found = distance.argmin(-1), []
    for part in components(np.linalg.norm(picture - BACKGROUND, axis=-1) > COLOUR_REACH):
        if part.sum() >= SMALLEST * part.size:
            colour = list(RGB)[np.bincount(nearest[part]).argmax()]
            found.append(Seen(colour, "ring" if _has_hole(part) else shape_of(part), place_of(part)))
    return found


def _has_hole(part: Mask) -> bool:
    """Return whether background within a part reaches no edge of its box."""
    ys, xs = np.nonzero(part)
    box = np.pad(part[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1], 1)
    hole = sum(int(one.sum()) for one in components(~box) if not one[0, 0])
    return hole >= SMALLEST_HOLE * (hole + part.sum())


def agrees(thing: Thing, seen: Seen) -> bool:
    """Say whether one object is as described."""
    return thing.shape == seen.shape and thing.colour in (None, seen.colour) and thing.place in (None, seen.place)


def judge(
    things: Sequence[Thing], picture: NDArray[np.float32], find: Callable[[NDArray[np.float32]], list[Seen]] = look
) -> bool:
    """Say whether a picture shows the described objects, each of them once, and nothing else."""
    seen = find(picture)
    return len(seen) == len(things) and any(
        all(agrees(thing, one) for thing, one in zip(things, order, strict=True)) for order in permutations(seen)
    )
