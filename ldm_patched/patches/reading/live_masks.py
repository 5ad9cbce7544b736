"""The masks that a run made of the attention to words, after it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..methods.live_mask import LiveMask
from ..patcher import Patcher
from ..record.archive import ARCHIVE
from ..record.plan import plan_of
from .report import masked


def live_masks(model: Patcher, samples: Tensor, size: tuple[int, int]) -> list[tuple[str, Tensor]]:
    """Return what to say of each mask that the run of a latent made, and the mask (b, height, width) it used last.

    Each is drawn smoothly at the size of the picture before it is cut. Raises ValueError where there is none.
    """
    plan = plan_of(model)
    entries = [] if plan is None else [entry for entry in plan.entries if isinstance(entry.value, LiveMask)]
    if not entries:
        raise ValueError("this model makes no mask of a word; put Region by Word before the sampler")
    run, found = ARCHIVE.find(samples, plan), []
    for entry in entries:
        told = f"{entry.value.word}: {masked(run, entry)}"
        if entry.number not in run.masks:
            raise ValueError(told)
        heat = F.interpolate(run.masks[entry.number].heat[None], size, mode="bicubic")[0].clamp(0.0, 1.0)
        found.append((told, entry.value.cut(heat)))
    return found
