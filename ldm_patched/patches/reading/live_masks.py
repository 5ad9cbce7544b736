"""The masks that a run made of the attention to words, after it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods.live_mask import LiveMask, live
from ..patcher import Patcher
from ..record.archive import ARCHIVE
from ..record.plan import Entry, plan_of
from ..record.run import Run
from .fate import masked

IDLE = "its node changes nothing with these settings, so it made no mask"


def live_masks(model: Patcher, samples: Tensor, size: tuple[int, int]) -> list[tuple[str, Tensor]]:
    """Return what to say of each mask that the run of a latent made, and the mask (b, height, width) it used last.

    Each is drawn smoothly at the size of the picture before it is cut. A word that made none beside others that did, or
    whose node changes nothing, has an empty one. Raises ValueError where there is no word, or where none made a mask.
    """
    plan = plan_of(model)
    entries = () if plan is None else plan.entries
    made = [entry for entry in entries if isinstance(entry.value, LiveMask)]
    idle = {mask for entry in entries if entry.neutral for mask in live(getattr(entry.value, "needs", ()))}
    idle -= {entry.value for entry in made}
    if plan is None or not (made or idle):
        raise ValueError(
            "this model makes no mask of a word; put Region by Word (with Regional Prompt) or Word Mask by Word "
            "before the sampler"
        )
    run = ARCHIVE.find(samples, plan) if made else None
    told = (
        []
        if run is None
        else [(f"{entry.value.word}: {masked(run, entry)}", _mask(run, entry, size)) for entry in made]
    )
    told += [(f"{mask.word}: {IDLE}", None) for mask in sorted(idle, key=lambda mask: mask.word)]
    if not idle and all(mask is None for _, mask in told):
        raise ValueError("; ".join(text for text, _ in told))
    empty = torch.zeros(len(samples) * math.prod(samples.shape[2:-2]), *size)
    return [(text, empty if mask is None else mask) for text, mask in told]


def _mask(run: Run, entry: Entry, size: tuple[int, int]) -> Tensor | None:
    if entry.number not in run.masks:
        return None
    heat = F.interpolate(run.masks[entry.number].heat[None], size, mode="bicubic")[0].clamp(0.0, 1.0)
    mask: Tensor = entry.value.cut(heat)
    return mask
