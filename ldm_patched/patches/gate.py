"""What every patch asks before it acts: is this block mine, is this the time, and how strong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .recorder import KEY, Entry, Recorder, current_block
from .schedule import Schedule
from .targets import BlockId


@dataclass(frozen=True)
class Gate:
    """Open in some blocks during the schedule of an entry; every opening is counted by the recorder of the run."""

    entry: Entry
    blocks: frozenset[BlockId]

    def weight(self, options: Mapping[str, Any]) -> float:
        """Return the strength of the curve for the current call, 0 where the patch must not act."""
        block = current_block(options)
        if block not in self.blocks:
            return 0.0
        recorder: Recorder | None = options.get(KEY)
        weight = current_weight(self.entry.schedule, recorder, options)
        if weight and recorder is not None:
            recorder.count_patch(self.entry.number, block)
        return weight


def current_weight(schedule: Schedule, recorder: Recorder | None, options: Mapping[str, Any]) -> float:
    """Return the strength of a schedule for the current call; without a recorder it is that of the first step."""
    if schedule.always:
        return 1.0
    return schedule.weight(recorder.percent(options) if recorder is not None else 0.0)
