"""Guidance by self-attention in overlapping windows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, method, number
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner


@method(
    node="PatchbaySlidingWindowGuidance",
    title="Sliding Window Guidance",
    text="Guide away from the picture in which the self-attention of some blocks sees only a window around each place: "
    "better global structure. One more model call in each step of the window.",
    aliases=("SWG", "sliding window", "local attention"),
    verb="guide",
    gives="with this guidance",
    saved_in=("Guidance", "weakening", "SlidingWindow"),
)
class SlidingWindowGuidance(Method):
    """Guide away from self-attention within windows of the image (Kaiser et al. 2024, arXiv 2411.10257).

    `size` is the side of a window as a part of the image's, `overlap` the part of it that neighbours share at least;
    results are averaged where windows overlap. The paper crops the whole input of the model; this crops what the
    self-attention of the chosen blocks sees, and leaves convolutions and a video's attention over time as they are.
    `scale` times the curve is how far; 0 changes nothing, to the bit.
    """

    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip="How far the prediction is pushed away; 0 changes nothing.")
    size: float = number(0.5, 0.05, 1.0, tip="Side of a window, as a part of the picture's; 1 changes nothing.")
    overlap: float = number(0.5, 0.0, 0.95, tip="The part of a window that neighbours share, at least.")
    where: Where = acts("all", kind="self")

    def check(self) -> None:
        """Refuse windows that are none."""
        if not 0.0 < self.size <= 1.0:
            raise Refused(f"size is {self.size}; give a part of the picture above 0, up to 1", "size")
        if not 0.0 <= self.overlap < 1.0:
            raise Refused(f"overlap is {self.overlap}; give a part of the window from 0, below 1", "overlap")

    @property
    def pictured(self) -> bool:
        """Return that windows lie on a picture."""
        return True

    @property
    def piecemeal(self) -> bool:
        """Return that it attends with windows."""
        return True

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"sliding-window {self.size:g}/{self.overlap:g} guidance {self.scale:g}"

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend in each window and average."""
        if site.over_time:
            return inner(q, k, v)
        height, width = site.image_grid
        places = torch.arange(site.tokens, device=q.device).view(-1, height, width)
        own = site.tokens  # further keys, as those of a reference, are in every window
        total, times = v.new_zeros(*q.shape[:3], v.shape[3]), v.new_zeros(own, 1)
        for rows in windows(height, self.size, self.overlap):
            for columns in windows(width, self.size, self.overlap):
                window = places[:, rows, columns]
                some = window.flatten()
                below = site.but(piece=tuple(window.shape[1:]))
                keys, values = (torch.cat([x[:, :, some], x[:, :, own:]], 2) for x in (k, v))
                total[:, :, some] += inner(q[:, :, some], keys, values, below)
                times[some] += 1.0
        return total / times


def windows(length: int, size: float, overlap: float) -> list[slice]:
    """Return evenly spread windows over a side of the image that cover it and overlap by `overlap` at least."""
    side = min(length, max(1, round(size * length)))
    step = max(1, int(side * (1.0 - overlap)))
    count = 1 + -(-(length - side) // step)
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)] if count > 1 else [0]
    return [slice(start, start + side) for start in starts]
