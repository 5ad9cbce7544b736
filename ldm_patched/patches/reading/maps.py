"""What was gathered in a run, after it: maps by block and by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addressing.address import BlockId
from ..engine.gathering import Grid, Listener, Sums, added, on_cpu
from ..record.archive import ARCHIVE
from ..record.plan import Entry, plan_of
from ..record.run import Run


@dataclass(frozen=True)
class Gathered:
    """What a listener gathered in a run: by block, and by step (from 1) and grid."""

    listener: Listener
    blocks: Mapping[BlockId, Sums]
    steps: Mapping[tuple[int, Grid], Sums] = field(default_factory=dict)


def captured(model: Any, samples: Any) -> list[Gathered]:
    """Return what the listeners on a model patcher gathered in the run that gave a latent, in the order of the graph.

    Raises ValueError where there is none, none of them ran, or the run is not known any more.
    """
    plan = plan_of(model)
    if plan is None or not any(hasattr(entry.value, "labels") for entry in plan.entries):
        raise ValueError("this model captures no attention; put Capture Attention before the sampler")
    return gathered_in(ARCHIVE.find(samples, plan))


def gathered_in(run: Run) -> list[Gathered]:
    """Return what the listeners of a run gathered; raises ValueError where none of them did."""
    if run.dropped:
        raise ValueError("the maps of this run had to make room for those of later ones; run the sampler again")
    found = [_of(entry, run.gathered[entry.number]) for entry in run.entries if entry.number in run.gathered]
    if not found:
        reasons = "; ".join(run.skips.values()) or "link the model that the sampler got, and check blocks and window"
        raise ValueError(f"nothing was captured: {reasons}")
    return found


def _of(entry: Entry, kept: Mapping[Any, Sums]) -> Gathered:
    found: dict[Any, Sums] = {}
    for (place, _), sums in kept.items():  # of each device
        here = on_cpu(sums)
        found[place] = added(found[place], here) if place in found else here
    blocks = {place: sums for place, sums in found.items() if isinstance(place, BlockId)}
    steps = {place: found[place] for place in sorted(found.keys() - blocks.keys())}
    return Gathered(entry.value, blocks, steps)


def heat(sums: Iterable[Sums], size: tuple[int, int]) -> Tensor:
    """Return the mean map of some sums, scaled to an image: (labels, b, height, width), each from 0 to 1.

    Each block counts the same; its map is drawn smoothly over the image.
    """
    return scaled(mean_map(sums, size))


def mean_map(sums: Iterable[Sums], size: tuple[int, int]) -> Tensor:
    """Return the mean attention of some sums, each counting the same, scaled to an image: (labels, b, h, w)."""
    maps = [F.interpolate((one.attention / one.calls).unflatten(-1, one.grid), size, mode="bicubic") for one in sums]
    return torch.stack(maps).mean(0)


def scaled(maps: Tensor) -> Tensor:
    """Scale each map (..., h, w) from its least and highest value to 0 and 1."""
    low, high = (limit(maps, dim=(-2, -1), keepdim=True) for limit in (torch.amin, torch.amax))
    return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
