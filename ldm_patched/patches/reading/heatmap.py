"""Attention maps to look at: painted over the images, side by side by step or block, and small for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.gathering import Shown, Sums, scaled
from .maps import Gathered, mean_map

# Points of a map from dark blue over grey to yellow, whose lightness rises evenly and which the colour-blind can read.
COLOURS = torch.tensor([[0.0, 0.13, 0.3], [0.25, 0.3, 0.42], [0.49, 0.48, 0.47], [0.74, 0.68, 0.41], [1.0, 0.92, 0.27]])
COLUMN, WIDEST, LABEL, MARGIN = 128, 3840, 16, 90  # pixels of the sheet
# On the page: longest side of a map and of an image, and half of it where there are many images; most images; longest
# side of the maps of other words.
SMALL, IMAGE, SHOWN, MOST, TINY = 64, 384, 4, 32, 16


def overlay(maps: Tensor, images: Tensor | None, opacity: float) -> Tensor:
    """Paint maps (words * b, h, w) of 0..1 over images (b, h, w, 3), or alone: (words * b, h, w, 3)."""
    place = maps * (len(COLOURS) - 1)
    low = place.long().clamp(max=len(COLOURS) - 2)
    painted = torch.lerp(COLOURS[low], COLOURS[low + 1], (place - low)[..., None])
    if images is None:
        return painted
    below = images[..., :3].cpu().float().repeat(len(maps) // len(images) + 1, 1, 1, 1)[: len(maps)]
    return torch.lerp(below, painted, opacity)


# A sheet by step or block


def columns(found: Sequence[Gathered], by: str) -> list[str]:
    """Return the names of the steps or blocks in which anything was gathered, in the order of the run or the model."""
    if by == "step":
        return [str(step) for step in sorted({step for one in found for step, _ in one.steps})]
    return list(dict.fromkeys(str(block) for one in found for block in one.blocks))


def sheet(found: Sequence[Gathered], by: str, size: tuple[int, int]) -> Tensor:
    """Draw the maps of the first image, a row for each label and a column for each step or block: (1, h, w, 3).

    All maps of a row share one scale, so that columns can be compared.
    """
    from PIL import Image, ImageDraw  # a host without this node needs no Pillow

    names = columns(found, by)
    side = min(COLUMN, WIDEST // len(names))
    height, width = (max(1, round(side * length / max(size))) for length in size)
    labels = [label for one in found for label in one.listener.labels]
    page = Image.new("RGB", (MARGIN + len(names) * (width + 2), LABEL + len(labels) * (height + 2)), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    for number, name in enumerate(names):
        draw.text((MARGIN + number * (width + 2), 2), name, fill=(30, 30, 30))
    rows = [row for one in found for row in _rows(one, by, names, (height, width))]
    for number, (label, row) in enumerate(zip(labels, rows, strict=True)):
        top = LABEL + number * (height + 2)
        draw.text((4, top + height // 2 - 6), label[:14], fill=(30, 30, 30))
        for column, painted in enumerate(overlay(row, None, 1.0)):
            pixels = (painted * 255.0).round().to(torch.uint8).numpy()
            page.paste(Image.fromarray(pixels), (MARGIN + column * (width + 2), top))
    return torch.from_numpy(np.asarray(page, dtype=np.float32) / 255.0)[None]


def _rows(one: Gathered, by: str, names: Sequence[str], size: tuple[int, int]) -> Tensor:
    """Return the maps (labels, columns, h, w) of 0..1; zero where nothing was gathered."""
    sums = _by_column(one, by)
    empty = torch.zeros(len(one.listener.labels), *size)
    maps = torch.stack([mean_map(sums[n], size)[:, 0] if n in sums else empty for n in names], dim=1)
    shown: Tensor = scaled(maps.flatten(1, 2)).unflatten(1, (len(names), size[0]))
    return shown


def _by_column(one: Gathered, by: str) -> dict[str, list[Sums]]:
    found: dict[str, list[Sums]] = {}
    places = one.steps if by == "step" else one.blocks
    for place, sums in places.items():
        found.setdefault(str(place[0] if by == "step" else place), []).append(sums)
    return found


# For the page


def view(found: Shown, size: tuple[int, int], images: Tensor | None = None) -> dict[str, Any]:
    """Return the maps as JSON for the viewer of the page: small, of some images or frames, and with their true range.

    `maps` is base64 of a byte for each pixel, (labels, images, h, w), from `low` of its map at 0 to `high` at 255.
    `others` are the maps of the prompt's other words in the same form, or None; `shown` numbers the images from 1.
    """
    first = found[0].sums[0]
    count = first.attention.shape[1]
    some = torch.linspace(0, count - 1, min(count, MOST)).round().long().tolist()
    side, image = (SMALL, IMAGE) if count <= SHOWN else (SMALL // 2, IMAGE // 2)
    labels = [label for heard in found for label in heard.listener.labels]
    words = sum(len(heard.listener.labels) for heard in found if heard.listener.kind == "cross")
    others = [(heard.listener.other_labels, heard.others) for heard in found if heard.others]
    return {
        **_maps(labels, [heard.sums for heard in found], size, side, some),
        "words": words,
        "others": _maps(sum((o for o, _ in others), ()), [sums for _, sums in others], size, TINY, some)
        if others
        else None,
        "frames": first.frames,
        "shown": [number + 1 for number in some],
        "images": [] if images is None else [url(one, image) for one in alongside(images, count, first.frames, some)],
    }


def _maps(
    labels: Sequence[str], sums: Sequence[Sequence[Sums]], size: tuple[int, int], side: int, some: Sequence[int]
) -> dict[str, Any]:
    height, width = (max(1, round(side * length / max(size))) for length in size)
    maps = torch.cat([mean_map(one, (height, width)) for one in sums])[:, some].clamp(min=0.0)
    return {
        "labels": list(labels),
        "pictures": len(some),
        "height": height,
        "width": width,
        "low": maps.amin(dim=(-2, -1)).tolist(),
        "high": maps.amax(dim=(-2, -1)).tolist(),
        "maps": base64.b64encode((scaled(maps) * 255.0).round().to(torch.uint8).numpy().tobytes()).decode(),
    }


def alongside(images: Tensor, count: int, frames: int, some: Sequence[int]) -> Tensor:
    """Return the images that some of `count` maps belong to, those of videos where they have more than one of `frames`.

    A decoded video has more frames than its latent: each of those is shown by the last that it stands for. Raises
    ValueError for images of another number.
    """
    if len(images) == count:
        return images[list(some)]
    videos = count // frames
    if frames == 1 or len(images) < count or len(images) % videos:
        wanted = f"{count} picture{'s' * (count > 1)}" if frames == 1 else f"{videos} of {frames} latent frames"
        raise ValueError(f"images: {len(images)} of them, but the run made {wanted}; link what the latent decodes to")
    each, shown = count // videos, len(images) // videos
    pairs = (divmod(number, each) for number in some)
    return images[[video * shown + round(frame * (shown - 1) / max(1, each - 1)) for video, frame in pairs]]


def url(image: Tensor, longest: int) -> str:
    """Return an image (h, w, 3) as a JPEG in a URL, with at most `longest` pixels on a side."""
    from PIL import Image  # a host without this node needs no Pillow

    scale = min(1.0, longest / max(image.shape[:2]))
    size = [max(1, round(scale * length)) for length in image.shape[:2]]
    small = F.interpolate(image[..., :3].cpu().float().movedim(-1, 0)[None], size, mode="area")[0].movedim(0, -1)
    pixels = (small.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
