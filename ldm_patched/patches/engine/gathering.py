"""What listeners to attention have added up during a run: by block, by step, and small for what nobody asked for.

Only sums are kept, one number for each token of the image and each thing listened for; never a map of one call or
head. At 1024x1024 and 8 words, all 70 blocks of SDXL together take 3 MB, and 30 steps 5 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..patcher import CfgArgs
from ..record.run import Run, UsedMask, run_of
from .gate import Gate
from .site import Site

Grid = tuple[int, int]
SMALL = 16  # tokens on the longest side of the maps that nobody asked for
OTHERS = "others"  # the place of those: no block and no step, they are of the whole run so far
REST = "rest"  # with a step: of what all of them together got in it
SHARES = "shares"  # and of what each label gets and brings, of all calls


class Listener(Protocol):
    """A method that gathers attention: one map for each of its labels, and a small one for each of the others."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def kind(self) -> str: ...
    @property
    def other_labels(self) -> tuple[str, ...]: ...
    def only(self, index: int) -> Listener: ...


class Sums(NamedTuple):
    """What a block or step has gathered in its calls: attention (labels, b, h * w), entropy (heads,) in nats.

    The `frames` of a video are pictures of the batch, those of the first picture first.
    """

    attention: Tensor
    entropy: Tensor
    grid: Grid
    calls: int
    frames: int = 1


class Heard(NamedTuple):
    """A listener with some of what it gathered for its labels, and with what it gathered for the others."""

    listener: Listener
    sums: Sequence[Sums]
    others: Sequence[Sums] = ()


Shown = Sequence[Heard]


class ShownMask(NamedTuple):
    """A mask that is made of the attention to a word, in a step: its map, and the part of each picture that it covers.

    It holds from the step `since` on; before that, at 0, it is what all steps so far would make. The run has `steps`, 0
    where it does not say; what is above `limit` belongs to the mask, at 0 it is the map itself.
    """

    step: int
    heard: Heard
    since: int
    covers: tuple[float, ...]
    steps: int
    limit: float


ShowMask = Callable[[str, Callable[[], ShownMask | None], CfgArgs], None]


def gather(site: Site, attention: Tensor, entropy: Tensor, grid: Grid) -> None:
    """Add one call's attention (labels, b, h * w) and entropy (heads,) to the sums of its block and of its step.

    The frames of a video become images of the batch.
    """
    one = Sums(_by_frame(site, attention), entropy, grid, 1, site.frames)
    _keep_at(site, site.block, one)
    _keep_at(site, site.step, one._replace(entropy=entropy.mean(0, keepdim=True)))


def gather_others(site: Site, attention: Tensor, grid: Grid) -> None:
    """Add one call's attention (others, b, h * w) to one small sum of the run."""
    maps = attention.unflatten(-1, (site.frames, *grid)).flatten(1, 2)
    height, width = (max(1, round(SMALL * length / max(grid))) for length in grid)
    mode = "area" if max(grid) > SMALL else "bilinear"
    small = F.interpolate(maps, (height, width), mode=mode).flatten(-2)
    _keep_at(site, OTHERS, Sums(small, small.new_zeros(1), (height, width), 1, site.frames))


def gather_rest(site: Site, attention: Tensor, grid: Grid) -> None:
    """Add one call's attention (others, b, h * w) to one sum of its step for all of them together."""
    together = _by_frame(site, attention.sum(0, keepdim=True))
    _keep_at(site, (REST, site.step), Sums(together, together.new_zeros(1), grid, 1, site.frames))


def gather_shares(site: Site, shares: Tensor, brought: Tensor) -> None:
    """Add what each label got of one call's attention and brought to its result, both (labels, b), to those of the run.

    They are counted alike in all steps, whatever the curve.
    """
    both = torch.stack([shares, brought], -1)  # (labels, b, 2)
    _keep_at(site, SHARES, Sums(both, both.new_zeros(1), (1, 2), 1))


def _by_frame(site: Site, attention: Tensor) -> Tensor:
    by_frame: Tensor = attention.unflatten(-1, (site.frames, -1))
    return by_frame.flatten(1, 2)


def _keep_at(site: Site, place: Hashable, sums: Sums) -> None:
    assert site.run is not None and site.gate is not None  # listeners are deaf otherwise
    _keep_sums(site.run, site.gate, ((place, sums.grid), sums.attention.device), sums)


def _keep_sums(run: Run, gate: Gate, key: Hashable, sums: Sums) -> None:
    """Add to what is kept under a key; the first are kept themselves, so they are copied to outlive the block."""

    def plus(old: Sums, new: Sums) -> Sums:
        return gate.lasting(lambda: added(old, new))

    number = gate.entry.number
    if key not in run.gathered.get(number, {}):
        copied = gate.lasting(lambda: (sums.attention.clone(), sums.entropy.clone()))
        sums = Sums(*copied, sums.grid, sums.calls, sums.frames)
    run.gather(number, key, sums, plus)


def added(old: Sums, new: Sums) -> Sums:
    """Return the sums of both."""
    calls = old.calls + new.calls
    return Sums(old.attention + new.attention, old.entropy + new.entropy, new.grid, calls, new.frames)


def keep(run: Run) -> None:
    """Bring what was gathered in a run to the CPU, where it is kept for after it."""
    for kept in run.gathered.values():
        for place, sums in kept.items():
            kept[place] = on_cpu(sums)
    for number, (step, heat, mask) in run.masks.items():
        run.masks[number] = UsedMask(step, heat.cpu(), mask.cpu())


def before(step: int, kept: Mapping[Any, Sums]) -> tuple[list[Sums], list[Sums]]:
    """Return what an entry gathered in the steps before one, by grid and device: for its labels, and for the rest."""
    places = [(place, sums) for ((place, _), _), sums in list(kept.items())]
    named = [sums for place, sums in places if isinstance(place, int) and place < step]
    return named, [sums for place, sums in places if isinstance(place, tuple) and place[0] == REST and place[1] < step]


def scaled(maps: Tensor) -> Tensor:
    """Scale each map (..., h, w) from its least and highest value to 0 and 1."""
    low, high = (limit(maps, dim=(-2, -1), keepdim=True) for limit in (torch.amin, torch.amax))
    return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)


# During the run


@dataclass(frozen=True)
class Live:
    """A function behind the guidance that shows in a node what all listeners gathered in the step; changes nothing.

    `show` also gets what the guidance got, for the picture so far.
    """

    node: str
    show: Callable[[str, int, Shown, CfgArgs], None]

    def __call__(self, gate: Gate, args: CfgArgs) -> Tensor:
        run = run_of(args["model_options"].get("transformer_options", {}))
        found = latest(run) if run is not None else []
        if found:
            last = max(step for step, _ in found)
            self.show(self.node, last, [heard for step, heard in found if step == last], args)
        return args["denoised"]


def latest(run: Run) -> list[tuple[int, Heard]]:
    """Return the last step in which each listener gathered anything, and what."""
    found = []
    for entry in run.entries:
        kept = [(place, sums) for ((place, _), _), sums in list(run.gathered.get(entry.number, {}).items())]
        steps = [(step, sums) for step, sums in kept if isinstance(step, int)]
        if steps:
            last = max(step for step, _ in steps)
            now = [on_cpu(sums) for step, sums in steps if step == last]
            found.append((last, Heard(entry.value, now, [on_cpu(sums) for place, sums in kept if place == OTHERS])))
    return found


def on_cpu(sums: Sums) -> Sums:
    """Return the sums where they can be read."""
    return sums._replace(attention=sums.attention.cpu(), entropy=sums.entropy.cpu())
