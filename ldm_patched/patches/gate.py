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
    """Open in some blocks during the schedule of an entry; every opening is counted by the recorder of the run.

    `whole` says that the blocks are those of the UNet, not the transformer blocks in them.
    """

    entry: Entry
    blocks: frozenset[BlockId]
    whole: bool = False

    def weight(self, options: Mapping[str, Any]) -> float:
        """Return the strength of the curve for the current call, 0 where the patch must not act."""
        weight = self.peek(options)
        recorder: Recorder | None = options.get(KEY)
        if weight and recorder is not None:
            recorder.count_patch(self.entry.number, self._block(options))
        return weight

    def peek(self, options: Mapping[str, Any]) -> float:
        """Return what `weight` would, without counting a use."""
        if self._block(options) not in self.blocks:
            return 0.0
        return current_weight(self.entry.schedule, options.get(KEY), options)

    def memory(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what this entry keeps during one run; forgotten before the next, and empty without a recorder."""
        recorder: Recorder | None = options.get(KEY)
        return {} if recorder is None else recorder.memory(self.entry.number)

    def skip(self, options: Mapping[str, Any], reason: str) -> None:
        """Note why the patch cannot act in a call inside its blocks and window; the report shows the last reason."""
        recorder: Recorder | None = options.get(KEY)
        if recorder is not None:
            recorder.skips[self.entry.number] = reason

    def _block(self, options: Mapping[str, Any]) -> BlockId | None:
        block = current_block(options)
        return block._replace(inner=0) if self.whole and block is not None else block


def current_weight(schedule: Schedule, recorder: Recorder | None, options: Mapping[str, Any]) -> float:
    """Return the strength of a schedule for the current call; without a recorder it is that of the first step."""
    if schedule.always:
        return 1.0
    return schedule.weight(recorder.percent(options) if recorder is not None else 0.0)
