"""What was gathered in a run, after it: maps by block and by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addressing.address import BlockId
from ..engine.gathering import OTHERS, SHARES, Grid, Heard, Listener, Sums, added, scaled
from ..patcher import Patcher
from ..record.archive import ARCHIVE
from ..record.plan import Entry, plan_of
from ..record.run import Run
from .report import Row, layout


@dataclass(frozen=True)
class Gathered:
    """What a listener gathered in a run: by block, by step (from 1) and grid, and small for its other labels.

    `shares`: what each label, then each other one, got and brought in all calls, (labels, b, 2).
    """

    listener: Listener
    blocks: Mapping[BlockId, Sums]
    steps: Mapping[tuple[int, Grid], Sums] = field(default_factory=dict)
    others: Sequence[Sums] = ()
    shares: Sequence[Sums] = ()

    @property
    def heard(self) -> Heard:
        """Return what all blocks gathered."""
        return Heard(self.listener, list(self.blocks.values()), self.others)


def captured(model: Patcher, samples: Tensor) -> list[Gathered]:
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
        told = "; ".join(dict.fromkeys(run.skips.values()))
        reasons = told or "link the model that the sampler got, and check blocks and window"
        raise ValueError(f"nothing was captured: {reasons}")
    return found


def _of(entry: Entry, kept: Mapping[Any, Sums]) -> Gathered:
    found: dict[Any, Sums] = {}
    for (place, _), sums in kept.items():  # of each device
        found[place] = added(found[place], sums) if place in found else sums
    blocks: dict[BlockId, Sums] = {}
    for (where, _), sums in found.items():
        if isinstance(where, BlockId):
            blocks[where] = _joined(entry.value, blocks[where], sums) if where in blocks else sums
    steps = sorted(place for place in found if isinstance(place[0], int))
    others = [sums for (where, _), sums in found.items() if where == OTHERS]
    shares = [sums for (where, _), sums in found.items() if where == SHARES]
    return Gathered(entry.value, blocks, {place: found[place] for place in steps}, others, shares)


def _joined(listener: Listener, one: Sums, other: Sums) -> Sums:
    """Return the sums of a block whose grid changed during the run, as Deep Shrink does it, on the larger grid."""
    grid = max(one.grid, other.grid, key=math.prod)
    return added(_regridded(listener, one, grid), _regridded(listener, other, grid))


def _regridded(listener: Listener, sums: Sums, grid: Grid) -> Sums:
    if sums.grid == grid:
        return sums
    # What a point gives to all tokens adds up to 1, what a token gives to a word does not hang on their number
    fewer = math.prod(sums.grid) / math.prod(grid) if listener.kind == "self" else 1.0
    maps = F.interpolate(sums.attention.unflatten(-1, sums.grid), grid, mode="bilinear")
    return sums._replace(attention=maps.flatten(-2) * fewer, grid=grid)


def heat(sums: Iterable[Sums], size: tuple[int, int]) -> Tensor:
    """Return the mean map of some sums, scaled to an image: (labels, b, height, width), each from 0 to 1.

    Each block counts the same; its map is drawn smoothly over the image.
    """
    return scaled(mean_map(sums, size))


def mean_map(sums: Iterable[Sums], size: tuple[int, int]) -> Tensor:
    """Return the mean attention of some sums, each counting the same, scaled to an image: (labels, b, h, w)."""
    maps = [F.interpolate((one.attention / one.calls).unflatten(-1, one.grid), size, mode="bicubic") for one in sums]
    return torch.stack(maps).mean(0)


def only(found: Sequence[Gathered], label: str) -> list[Gathered]:
    """Return what was gathered for one word or point alone.

    Raises ValueError where there is none.
    """
    wanted = label.strip()
    for one in found:
        if wanted in one.listener.labels:
            return [_of_label(one, one.listener.labels.index(wanted))]
    known = ", ".join(label for one in found for label in one.listener.labels)
    raise ValueError(f"no map was captured of {wanted!r}, only of {known}; write it in the words of Capture Attention")


def _of_label(one: Gathered, index: int) -> Gathered:
    def cut(kept: Mapping[Any, Sums]) -> dict[Any, Sums]:
        return {place: sums._replace(attention=sums.attention[[index]]) for place, sums in kept.items()}

    return Gathered(one.listener.only(index), cut(one.blocks), cut(one.steps))


# As text and as numbers


def statistics(found: Sequence[Gathered]) -> str:
    """Return tables: for each block its calls, the part of attention that each label gets, and the entropy in nats."""
    return "\n\n".join("\n".join(layout(_table(one))) for one in found)


def _table(one: Gathered) -> list[list[str]]:
    lines = [["block", "calls", "tokens", *one.listener.labels, "entropy (least, mean, most of the heads)"]]
    for block, sums in one.blocks.items():
        shares = [f"{float(share):.4f}" for share in (sums.attention / sums.calls).mean(dim=(1, 2))]
        heads = sums.entropy / sums.calls
        spread = ", ".join(f"{float(value):.2f}" for value in (heads.min(), heads.mean(), heads.max()))
        lines.append([str(block), str(sums.calls), "x".join(map(str, sums.grid)), *shares, spread])
    return lines


def map_rows(found: Gathered) -> list[Row]:
    """Return a row for each label and block: its share of the attention, calls, tokens, entropy in nats."""
    rows: list[Row] = []
    for block, sums in found.blocks.items():
        shares = (sums.attention / sums.calls).mean(dim=(1, 2)).tolist()
        same = {"block": str(block), "calls": sums.calls, "height": sums.grid[0], "width": sums.grid[1]}
        entropy = float((sums.entropy / sums.calls).mean())
        rows += [
            {"word": word, **same, "attention": share, "entropy": entropy}
            for word, share in zip(found.listener.labels, shares, strict=True)
        ]
    return rows


def contents(found: Sequence[Gathered]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors by name and what they are.

    `0/output:3` is the mean attention (labels, b, h, w) of a block of the first capture, `0/output:3/entropy` that of
    its heads (heads,) in nats, `0/step 4/16x16` the mean over the blocks of that grid in step 4.
    """
    tensors: dict[str, torch.Tensor] = {}
    about: list[dict[str, Any]] = []
    for number, one in enumerate(found):
        for block, sums in one.blocks.items():
            tensors[f"{number}/{block}"] = (sums.attention / sums.calls).unflatten(-1, sums.grid).contiguous()
            tensors[f"{number}/{block}/entropy"] = sums.entropy / sums.calls
        for (step, (height, width)), sums in one.steps.items():
            mean = (sums.attention / sums.calls).unflatten(-1, sums.grid).contiguous()
            tensors[f"{number}/step {step}/{height}x{width}"] = mean
        calls = {str(block): sums.calls for block, sums in one.blocks.items()}
        about.append({"kind": one.listener.kind, "labels": list(one.listener.labels), "calls": calls})
    return tensors, {"captures": about, "axes": "labels, pictures, height, width"}
