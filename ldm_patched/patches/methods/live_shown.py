"""Masks that words make of themselves, shown while the run makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..engine.gate import Gate
from ..engine.gathering import Heard, ShowMask, ShownMask, Sums
from ..engine.host import Host
from ..engine.place import AfterCfg
from ..patcher import CfgArgs
from ..record.run import Run, run_of
from .live_mask import LiveMask


def displays(masks: Sequence[Tensor | LiveMask], gate: Gate, host: Host) -> Iterator[AfterCfg]:
    """Return what shows each live mask that has a node, in every node that it has."""
    shown = {mask.node: mask for mask in masks if isinstance(mask, LiveMask) and mask.node}
    return (AfterCfg(gate, Display(mask, host.show_mask), counted=False) for mask in shown.values())


@dataclass(frozen=True)
class Display:
    """A function behind the guidance that shows a mask in its node, as far as it is made; changes nothing."""

    mask: LiveMask
    show: ShowMask

    def __call__(self, gate: Gate, args: CfgArgs) -> Tensor:
        options = args["model_options"].get("transformer_options", {})
        run, schedule = run_of(options), options.get("sample_sigmas")
        if run is not None:
            steps = 0 if schedule is None else len(schedule) - 1
            self.show(self.mask.node, partial(shown, self.mask, run, steps), args)
        return args["denoised"]


def shown(mask: LiveMask, run: Run, steps: int) -> ShownMask | None:
    """Return what to show of a mask after a step of a run; None where nothing was gathered."""
    found = mask.so_far(run)
    if found is None:
        return None
    heat = found.heat.cpu()
    frames = max(1, len(heat) // (run.pictures or len(heat)))
    sums = Sums(heat.flatten(1)[None], heat.new_zeros(1), (heat.shape[-2], heat.shape[-1]), 1, frames)
    step = run.last_step
    covers = tuple(found.mask.mean(dim=(1, 2)).tolist())
    return ShownMask(step, Heard(mask, [sums]), found.step, covers, steps, mask.limit)
