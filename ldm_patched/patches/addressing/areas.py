"""Parts of a picture as text, each with its prompt: `0 0 0.5 1 -> a red circle`, and their masks.

In a video a part may hold for some frames: `left frames 0-50% -> a red circle`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .frames import HOW, Frames, parse_frames
from .refused import Refused, readable

WIDGET = "regions"
MOST = 64  # areas of a text
HALVES = {
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 0.5, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 0.5),
    "all": (0.0, 0.0, 1.0, 1.0),
}
WAYS = (
    "write left, right, top, bottom, all or a box such as 0 0 0.5 1; brush, erase, columns and grids are in the help "
    "of this node"
)
NUMBERS = "write such as 0 0 0.5 1, 1:2 for columns, 1/2 for rows, brush 0.1: 0.2 0.3"
WHEN = "when it holds stands behind an area, after the word frames, such as left frames 0-50% -> a red circle"
_TIME = re.compile(r"%|frame|\d-", re.IGNORECASE)


@dataclass(frozen=True)
class Box:
    """A rectangle, in parts of the picture."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Brush:
    """A line of points (x, y) in parts of the picture, as wide as a part of its longer side.

    One that erases takes off what the shapes before it hold.
    """

    width: float
    points: tuple[tuple[float, float], ...]
    erases: bool = False


@dataclass(frozen=True)
class Area:
    """Where a prompt holds: in each of the shapes, without what one erases of those before it.

    `frames` says when in a video it holds; None: always.
    """

    shapes: tuple[Box | Brush, ...]
    prompt: str
    frames: Frames | None = None


def parse_areas(text: str) -> tuple[Area, ...]:
    """Read areas, one a line: shapes joined by +, `->` and a prompt; lines that begin with # are comments.

    Raises Refused, which names the line and the ways to write it.
    """
    found: list[Area] = []
    for number, line in enumerate(readable(text, WIDGET).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            found += _line(line, number)
    if len(found) > MOST:
        raise Refused(f"{WIDGET}: {len(found)} areas; draw at most {MOST}", WIDGET)
    return tuple(found)


def _line(line: str, number: int) -> list[Area]:
    left, arrow, prompt = line.partition("->")
    if not arrow:
        raise _wrong(number, "'->' and a prompt are missing; write left -> a red circle")
    place, timed, when = left.partition(" frames ")
    frames = _frames(when, number) if timed else None
    split = _split(place.strip(), number)
    if split is None:
        return [Area(_shapes(place, number), prompt.strip(), frames)]
    prompts = [part.strip() for part in prompt.split("|")]
    if len(prompts) != len(split):
        told = f"{place.strip()} has {len(split)} parts, and {len(prompts)} prompts stand behind ->"
        raise _wrong(number, f"{told}; put | between them")
    return [Area((box,), part, frames) for box, part in zip(split, prompts, strict=True)]


def _frames(text: str, number: int) -> Frames:
    try:
        found = parse_frames(text)
    except Refused as error:
        raise _wrong(number, str(error)) from None
    if found is None:
        raise _wrong(number, f"there is nothing behind frames; {HOW}")
    return found


def _shapes(text: str, number: int) -> tuple[Box | Brush, ...]:
    first, *others = (_shape(part.strip(), number) for part in text.split("+"))
    if isinstance(first, Brush) and first.erases:
        raise _wrong(number, f"there is nothing that {text.strip()!r} could erase; write left + erase 0.1: 0.2 0.3")
    return (first, *others)


def _split(text: str, number: int) -> list[Box] | None:
    """Return the boxes of columns 1:2, rows 1/2 or a grid 2x2; None for another text."""
    if "brush" in text or "erase" in text:
        return None
    if ":" in text:
        return [Box(start, 0.0, length, 1.0) for start, length in _shares(text, ":", number)]
    if "/" in text:
        return [Box(0.0, start, 1.0, length) for start, length in _shares(text, "/", number)]
    columns, cross, rows = text.partition("x")
    if not cross:
        return None
    counts = [int(part) if part.strip().isdecimal() and len(part) < 4 else 0 for part in (columns, rows)]
    if not all(counts):
        raise _wrong(number, f"{text!r} is no grid; write 2x2, columns first")
    across, down = counts
    return [Box(i / across, j / down, 1 / across, 1 / down) for j in range(down) for i in range(across)]


def _shares(text: str, mark: str, number: int) -> list[tuple[float, float]]:
    """Return start and length of each part of a proportion."""
    parts = [_number(part, number) for part in text.split(mark)]
    if min(parts) <= 0.0:
        raise _wrong(number, f"{text!r} has a part of nothing; write such as 1{mark}2")
    total = sum(parts)
    return [(sum(parts[:i]) / total, part / total) for i, part in enumerate(parts)]


def _shape(text: str, number: int) -> Box | Brush:
    if text in HALVES:
        return Box(*HALVES[text])
    for word in ("brush", "erase"):
        if text.startswith(word):
            return _brush(text, word, number)
    parts = text.split()
    if len(parts) != 4:
        raise _wrong(number, f"{text!r} is no area; {_ways(text)}")
    box = Box(*(_number(part, number) for part in parts))
    if box.width <= 0.0 or box.height <= 0.0:
        raise _wrong(number, f"the box {text!r} holds nothing; write x y width height, such as 0 0 0.5 1")
    return box


def _ways(text: str) -> str:
    if _TIME.search(text):
        return WHEN
    return "join several by +, such as left + top" if "," in text else WAYS


def _brush(text: str, word: str, number: int) -> Brush:
    width, colon, points = text.removeprefix(word).partition(":")
    found = [part.split() for part in points.split(",")]
    if not colon or any(len(point) != 2 for point in found):
        raise _wrong(number, f"{text!r} is no {word}; write {word} 0.1: 0.2 0.3, 0.4 0.3")
    size = _number(width, number)
    if size <= 0.0:
        raise _wrong(number, f"the {word} {text!r} is as wide as nothing; write {word} 0.1: 0.2 0.3")
    return Brush(size, tuple((_number(x, number), _number(y, number)) for x, y in found), word == "erase")


def _number(text: str, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise _wrong(number, f"{text.strip()!r} is no number; {NUMBERS}")
    return value


def _wrong(number: int, text: str) -> Refused:
    return Refused(f"{WIDGET}, line {number}: {text}", WIDGET)


# Masks


def paint(area: Area, size: tuple[int, int], soft: float = 0.0) -> Tensor:
    """Return the mask (1, h, w) of 0 to 1 of an area, with edges as soft as a part of the picture's longer side."""
    mask = torch.zeros(size)
    for shape in area.shapes:
        held = _painted(shape, size)
        erases = isinstance(shape, Brush) and shape.erases
        mask = torch.minimum(mask, 1.0 - held) if erases else torch.maximum(mask, held)
    return _blurred(mask, soft * max(size))[None]


def _painted(shape: Box | Brush, size: tuple[int, int]) -> Tensor:
    height, width = size
    if isinstance(shape, Box):
        rows = _covered(shape.y * height, (shape.y + shape.height) * height, height)
        return rows[:, None] * _covered(shape.x * width, (shape.x + shape.width) * width, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], -1)  # (h, w, 2)
    points = [torch.tensor([px * width, py * height]) for px, py in shape.points]
    far = torch.stack([_distance(pixels, *ends) for ends in zip(points, points[1:] or points, strict=False)]).amin(0)
    return (0.5 * shape.width * max(size) + 0.5 - far).clamp(0.0, 1.0)


def _covered(start: float, end: float, count: int) -> Tensor:
    """Return how much of each of `count` pixels lies between two places."""
    left = torch.arange(count, dtype=torch.float32)
    return ((left + 1.0).clamp(max=end) - left.clamp(min=start)).clamp(min=0.0)


def _distance(pixels: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return how far pixels (h, w, 2) are from a line: (h, w)."""
    along = end - start
    place = ((pixels - start) @ along / along.dot(along).clamp(min=1e-9)).clamp(0.0, 1.0)
    distance: Tensor = (pixels - start - place[..., None] * along).norm(dim=-1)
    return distance


def _blurred(mask: Tensor, wide: float) -> Tensor:
    """Return a mask (h, w) with ramps about `wide` pixels long; what lies beyond the edge is as the edge."""
    if wide <= 0.0:
        return mask
    sigma = wide / 2.5
    reach = max(1, math.ceil(2.0 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(mask[None, None], (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, weights[None, None, None])
    return F.conv2d(across, weights[None, None, :, None])[0, 0].clamp(0.0, 1.0)


def names(areas: Sequence[Area]) -> list[str]:
    """Return a short name for each area: the first words of its prompt."""
    return [" ".join(area.prompt.split()[:4]) or f"area {number}" for number, area in enumerate(areas, 1)]
