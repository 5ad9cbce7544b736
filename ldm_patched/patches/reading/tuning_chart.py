"""What tuning measured, as an image: a bar for the time of each function on each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ldm.modules.backends import registry
from ..routing.tuning import Timing, Tuned

WIDTH, ROW, MARGIN, NAMES, BARS = 860, 20, 12, 150, 430
PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (150, 150, 150)
# Okabe and Ito's colours, which the colour-blind tell apart; words say the same.
BEST, OTHER, INEXACT = (0, 114, 178), (86, 180, 233), (210, 210, 210)


def chart(tuned: Sequence[Tuned], bound: float) -> Tensor:
    """Draw the bars (1, h, w, 3) in 0..1; each call has a scale of its own, from zero to its slowest function."""
    from PIL import Image, ImageDraw  # a host without this node needs no Pillow

    height = 2 * MARGIN + sum(ROW * (len(one.timings) + 2) for one in tuned)
    image = Image.new("RGB", (WIDTH, max(height, 3 * ROW)), PAPER)
    draw = ImageDraw.Draw(image)
    top = MARGIN
    for one in tuned:
        draw.text((MARGIN, top), str(one.call), fill=INK)
        slowest = max((timing.seconds for timing in one.timings), default=1.0)
        for timing in one.timings:
            top += ROW
            _bar(draw, top, timing, timing.seconds / slowest, _kind(one, timing, bound))
        top += 2 * ROW
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)[None]


def _kind(one: Tuned, timing: Timing, bound: float) -> str:
    """Say in a word what a function is for a call."""
    if timing.error > bound:
        return "too inexact"
    words = ["fastest"] if timing == one.best(bound) else []
    words += ["auto"] if timing.backend == registry.select(one.call).backend.name else []
    return ", ".join(words)


def _bar(draw: Any, top: int, timing: Timing, share: float, kind: str) -> None:
    left, right = NAMES, NAMES + max(2, round(BARS * share))
    fill = INEXACT if kind == "too inexact" else BEST if "fastest" in kind else OTHER
    draw.text((MARGIN, top + 3), timing.backend, fill=INK)
    draw.rectangle((left, top + 2, right, top + ROW - 4), fill=fill)
    label = f"{1e3 * timing.seconds:.3g} ms  error {timing.error:.0e}" + (f"  {kind}" if kind else "")
    draw.text((right + 6, top + 3), label, fill=FAINT if kind == "too inexact" else INK)
