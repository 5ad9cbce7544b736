"""What the blocks of a model did in a run, as numbers for its map."""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..engine.gathering import Sums, on_cpu, scaled
from ..methods.block_watch import BlockWatch
from ..patcher import Patcher
from ..record.archive import ARCHIVE, GoneError
from ..record.plan import plan_of
from ..record.run import Run
from ..record.tally import Tally
from .maps import Gathered, gathered_in, mean_map
from .report import Row

THUMBNAIL = 32  # tokens on the longest side of a map


def known_values(model: Patcher, samples: Tensor | None) -> list[Row]:
    """Return the rows of the run of a model that gave a latent; none where no run of it did."""
    if samples is None:
        return []
    try:
        return block_values(ARCHIVE.find(samples, plan_of(model)))
    except GoneError:
        return []


def block_values(run: Run) -> list[Row]:
    """Return a row for each block that has attention, as plain values.

    `calls` and `seconds` are those of its attention calls, `share` their part of the time of all; `patches` the uses of
    each method. `change` is ||with - without|| / ||without|| of what it handed on, the mean of the calls that were
    measured (`measured`); `entropy` in nats and `map` are those of the first capture that heard it. None: not known.
    """
    heard = [] if run.dropped or not run.gathered else gathered_in(run)
    tallies = _tallies(run)
    total = sum(tally.seconds for tally in tallies.values())
    names = dict.fromkeys([*map(name_of, run.plan.blocks), *tallies])
    return [
        {"name": name, **_times(tallies[name], total), "patches": _uses(run, name), **_change(run, name)}
        | _heard(heard, name)
        for name in names
    ]


def _tallies(run: Run) -> defaultdict[str, Tally]:
    """Return the calls of each block of the map; it is asked in each step, when there are many."""
    names: dict[BlockId, str] = {}
    found: defaultdict[str, Tally] = defaultdict(Tally)
    for call, steps in list(run.tallies.items()):
        if call.block is not None:
            mine = found[names.setdefault(call.block, name_of(call.block))]
            tallies = list(steps.values())
            mine.count += sum(tally.count for tally in tallies)
            mine.seconds += sum(tally.seconds for tally in tallies)
    return found


def _times(tally: Tally, total: float) -> dict[str, Any]:
    share = tally.seconds / total if total else 0.0
    return {"calls": tally.count, "seconds": round(tally.seconds, 6), "share": round(share, 6)}


def name_of(block: BlockId) -> str:
    """Return the address of the block of the map that a transformer block is in."""
    return str(BlockId(block.type, block.number))


def _uses(run: Run, name: str) -> dict[str, int]:
    entries = [entry for entry in run.entries if not isinstance(entry.value, BlockWatch)]
    names = {entry.number: f"{entry.number}. {entry.name}" for entry in entries}
    uses: dict[str, int] = {}
    for (number, block), count in list(run.patched.items()):
        if number in names and block is not None and name_of(block) == name:
            uses[names[number]] = uses.get(names[number], 0) + count
    return uses


def _change(run: Run, name: str) -> dict[str, Any]:
    changes = [one for block, some in list(run.changes.items()) if block and name_of(block) == name for one in some]
    return {"change": _mean(changes), "measured": len(changes)}


def _mean(numbers: Sequence[float]) -> float | None:
    """Return the mean; None where there is none, or no number that JSON has."""
    mean = fmean(numbers) if numbers else math.nan
    return mean if math.isfinite(mean) else None


def _heard(heard: Iterable[Gathered], name: str) -> dict[str, Any]:
    for one in heard:
        sums = [on_cpu(sums) for block, sums in one.blocks.items() if name_of(block) == name]
        if sums:
            entropy = _mean([float((some.entropy / some.calls).mean()) for some in sums])
            return {"entropy": entropy, "map": thumbnail(sums, one.listener.labels)}
    return {"entropy": None, "map": None}


def thumbnail(sums: Sequence[Sums], labels: Sequence[str]) -> Mapping[str, Any]:
    """Return the map of the first label and picture: `bytes` is base64 of a byte for each pixel, from its least to its
    highest value."""
    grid = max(one.grid for one in sums)
    height, width = (max(1, round(min(1.0, THUMBNAIL / max(grid)) * length)) for length in grid)
    pixels = (scaled(mean_map(sums, (height, width))[0, 0]) * 255.0).round().to(torch.uint8)
    data = base64.b64encode(pixels.numpy().tobytes()).decode()
    return {"label": labels[0], "height": height, "width": width, "bytes": data}
