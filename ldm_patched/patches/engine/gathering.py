"""What listeners to attention have added up during a run: by block, and by step.

Only sums are kept, one number for each token of the image and each thing listened for; never a map of one call or
head. At 1024x1024 and 8 words, all 70 blocks of SDXL together take 3 MB, and 30 steps 5 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..patcher import CfgArgs
from ..record.run import Run, UsedMask, run_of
from .gate import Gate
from .site import Site

Grid = tuple[int, int]


class Listener(Protocol):
    """A method that gathers attention: one map for each of its labels."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> str: ...


class Sums(NamedTuple):
    """What a block or step has gathered in its calls: attention (labels, b, h * w), entropy (heads,) in nats."""

    attention: Tensor
    entropy: Tensor
    grid: Grid
    calls: int


Shown = Sequence[tuple[Listener, Sequence[Sums]]]  # listeners with some of what they gathered


def gather(site: Site, attention: Tensor, entropy: Tensor, grid: Grid) -> None:
    """Add one call's attention (labels, b, h * w) and entropy (heads,) to the sums of its block and of its step.

    The frames of a video become images of the batch.
    """
    attention = attention.unflatten(-1, (site.frames, -1)).flatten(1, 2)
    run, gate = site.run, site.gate
    assert run is not None and gate is not None  # listeners are deaf otherwise
    one = Sums(attention, entropy, grid, 1)
    for place, sums in ((site.block, one), (site.step, one._replace(entropy=entropy.mean(0, keepdim=True)))):
        _keep_sums(run, gate, ((place, grid), attention.device), sums)


def _keep_sums(run: Run, gate: Gate, key: Hashable, sums: Sums) -> None:
    """Add to what is kept under a key; the first are kept themselves, so they are copied to outlive the block."""

    def plus(old: Sums, new: Sums) -> Sums:
        return gate.lasting(lambda: added(old, new))

    number = gate.entry.number
    if key not in run.gathered.get(number, {}):
        copied = gate.lasting(lambda: (sums.attention.clone(), sums.entropy.clone()))
        sums = Sums(*copied, sums.grid, sums.calls)
    run.gather(number, key, sums, plus)


def added(old: Sums, new: Sums) -> Sums:
    """Return the sums of both."""
    return Sums(old.attention + new.attention, old.entropy + new.entropy, new.grid, old.calls + new.calls)


def keep(run: Run) -> None:
    """Bring what was gathered in a run to the CPU, where it is kept for after it."""
    for kept in run.gathered.values():
        for place, sums in kept.items():
            kept[place] = on_cpu(sums)
    for number, (step, heat, mask) in run.masks.items():
        run.masks[number] = UsedMask(step, heat.cpu(), mask.cpu())


def before(step: int, kept: Mapping[Any, Sums]) -> list[Sums]:
    """Return what an entry gathered in the steps before one, by grid and device."""
    return [sums for ((place, _), _), sums in list(kept.items()) if not isinstance(place, BlockId) and place < step]


def scaled(maps: Tensor) -> Tensor:
    """Scale each map (..., h, w) from its least and highest value to 0 and 1."""
    low, high = (limit(maps, dim=(-2, -1), keepdim=True) for limit in (torch.amin, torch.amax))
    return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)


# During the run


@dataclass(frozen=True)
class Live:
    """A function behind the guidance that shows in a node what all listeners gathered in the step; changes nothing."""

    node: str
    show: Callable[[str, int, Shown], None]

    def __call__(self, gate: Gate, args: CfgArgs) -> Tensor:
        run = run_of(args["model_options"].get("transformer_options", {}))
        found = latest(run) if run is not None else {}
        if found:
            last = max(step for step, _ in found.values())
            self.show(self.node, last, [(one, sums) for one, (step, sums) in found.items() if step == last])
        return args["denoised"]


def latest(run: Run) -> dict[Listener, tuple[int, list[Sums]]]:
    """Return the last step in which each listener gathered anything, and its sums."""
    found = {}
    for entry in run.entries:
        kept = run.gathered.get(entry.number, {})
        steps = {place: sums for (place, _), sums in list(kept.items()) if not isinstance(place[0], BlockId)}
        if steps:
            last = max(step for step, _ in steps)
            found[entry.value] = last, [on_cpu(sums) for (step, _), sums in steps.items() if step == last]
    return found


def on_cpu(sums: Sums) -> Sums:
    """Return the sums where they can be read."""
    return sums._replace(attention=sums.attention.cpu(), entropy=sums.entropy.cpu())
