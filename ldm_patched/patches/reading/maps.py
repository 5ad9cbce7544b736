"""What listeners to attention have added up during a run: by block, and by step.

Only sums are kept, one number for each token of the picture and each thing listened for; never a map of one call or
head. At 1024x1024 and 8 words, all 70 blocks of SDXL together take 3 MB, and 30 steps 5 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .gate import Gate
from .inventory import recorder_of
from .recorder import KEY, Entry, Recorder, current_block
from .targets import BlockId

Grid = tuple[int, int]
SIDES = ("positive", "negative")  # in the order in which hosts number them


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


@dataclass(frozen=True)
class Gathered:
    """What a listener gathered in the last run: by block, and by step (from 1) and grid."""

    listener: Listener
    blocks: Mapping[BlockId, Sums]
    steps: Mapping[tuple[int, Grid], Sums] = field(default_factory=dict)


def gather(gate: Gate, attention: Tensor, entropy: Tensor, grid: Grid, options: Mapping[str, Any]) -> None:
    """Add one call's attention (labels, b, h * w) and entropy (heads,) to the sums of its block and of its step."""
    recorder: Recorder = options[KEY]
    number, device = gate.entry.number, attention.device
    recorder.gather(number, (current_block(options), device), Sums(attention, entropy, grid, 1), _add)
    step = recorder.step(options)
    recorder.gather(number, ((step, grid), device), Sums(attention, entropy.mean(0, keepdim=True), grid, 1), _add)


def _add(old: Sums, new: Sums) -> Sums:
    return Sums(old.attention + new.attention, old.entropy + new.entropy, new.grid, old.calls + new.calls)


# During the run


@dataclass(frozen=True)
class Live:
    """A function behind the guidance that shows in a node what all listeners gathered in the step; changes nothing."""

    node: str
    show: Callable[[str, int, Sequence[tuple[Listener, list[Sums]]]], None]

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        recorder: Recorder | None = args["model_options"].get("transformer_options", {}).get(KEY)
        found = latest(recorder) if recorder is not None else {}
        if found:
            last = max(step for step, _ in found.values())
            self.show(self.node, last, [(one, sums) for one, (step, sums) in found.items() if step == last])
        return args["denoised"]


def latest(recorder: Recorder) -> dict[Listener, tuple[int, list[Sums]]]:
    """Return the last step in which each listener gathered anything, and its sums."""
    found = {}
    for entry in recorder.entries:
        kept = recorder.gathered.get(entry.number, {})
        steps = {place: sums for (place, _), sums in list(kept.items()) if not isinstance(place, BlockId)}
        if steps:
            last = max(step for step, _ in steps)
            found[entry.value] = last, [_on_cpu(sums) for (step, _), sums in steps.items() if step == last]
    return found


# After the run


def captured(model: Any) -> list[Gathered]:
    """Return what the listeners on a model patcher gathered in the last run, in the order of the graph.

    Raises ValueError where there is none, or none of them ran.
    """
    recorder = recorder_of(model)
    entries = [entry for entry in recorder.entries if hasattr(entry.value, "labels")] if recorder else []
    if recorder is None or not entries:
        raise ValueError("this model captures no attention; put Capture Attention before the sampler")
    found = [_of(entry, recorder.gathered[entry.number]) for entry in entries if entry.number in recorder.gathered]
    if not found:
        reasons = (
            "; ".join(recorder.skips.values()) or "link the model that the sampler got, and check blocks and window"
        )
        raise ValueError(f"nothing was captured: {reasons}")
    return found


def _of(entry: Entry, kept: Mapping[Any, Sums]) -> Gathered:
    found: dict[Any, Sums] = {}
    for (place, _), sums in kept.items():  # of each device
        here = _on_cpu(sums)
        found[place] = _add(found[place], here) if place in found else here
    blocks = {place: sums for place, sums in found.items() if isinstance(place, BlockId)}
    steps = {place: found[place] for place in sorted(found.keys() - blocks.keys())}
    return Gathered(entry.value, blocks, steps)


def _on_cpu(sums: Sums) -> Sums:
    return sums._replace(attention=sums.attention.cpu(), entropy=sums.entropy.cpu())


def heat(sums: Iterable[Sums], size: tuple[int, int]) -> Tensor:
    """Return the mean map of some sums, scaled to a picture: (labels, b, height, width), each from 0 to 1.

    Each block counts the same; its map is drawn smoothly over the picture.
    """
    return scaled(mean_map(sums, size))


def mean_map(sums: Iterable[Sums], size: tuple[int, int]) -> Tensor:
    """Return the mean attention of some sums, each counting the same, scaled to a picture: (labels, b, h, w)."""
    maps = [F.interpolate((one.attention / one.calls).unflatten(-1, one.grid), size, mode="bicubic") for one in sums]
    return torch.stack(maps).mean(0)


def scaled(maps: Tensor) -> Tensor:
    """Scale each map (..., h, w) from its least and highest value to 0 and 1."""
    low, high = (limit(maps, dim=(-2, -1), keepdim=True) for limit in (torch.amin, torch.amax))
    return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)


def chosen_heads(x: Tensor, heads: Sequence[int]) -> Tensor:
    """Return the chosen heads of (b, heads, ...), all where none are named; those that a block lacks are left out."""
    return x[:, [head for head in heads if head < x.shape[1]]] if heads else x
