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
    """Open in some blocks during a schedule; every opening is counted by the recorder of the run."""

    entry: Entry
    blocks: frozenset[BlockId]
    schedule: Schedule

    def weight(self, options: Mapping[str, Any]) -> float:
        """Return the strength of the curve for the current call, 0 where the patch must not act."""
        if current_block(options) not in self.blocks:
            return 0.0
        recorder: Recorder | None = options.get(KEY)
        weight = self.schedule.weight(recorder.percent(options) if recorder is not None else 0.0)
        if weight and recorder is not None:
            recorder.count_patch(self.entry, options)
        return weight
