"""What every patch asks before it acts: is this block mine, is this the time, and how strong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from ..addressing.address import BlockId
from ..addressing.schedule import Schedule
from ..patcher import TransformerOptions
from ..record.plan import Entry
from ..record.run import current_block, run_of

T = TypeVar("T")
Pause = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Gate:
    """Open in some blocks during the schedule of an entry; the run counts what acts.

    `whole` says that the blocks are those of the UNet, not the transformer blocks in them; `strength` is what the curve
    is multiplied by. `pause` is the host's.
    """

    entry: Entry
    blocks: frozenset[BlockId]
    whole: bool = False
    strength: float = 1.0
    pause: Pause = nullcontext

    def weight(self, options: TransformerOptions) -> float:
        """Return the strength of the curve for the current call, 0 where the patch must not act."""
        return curve_weight(self.entry.schedule, options) if self.block(options) in self.blocks else 0.0

    def reach(self, options: TransformerOptions) -> None:
        """Note that the patch was asked."""
        run = run_of(options)
        if run is not None:
            run.reached.add(self.entry.number)

    def count(self, options: TransformerOptions) -> None:
        """Count that the patch acted in the current call."""
        run = run_of(options)
        if run is not None:
            run.count_patch(self.entry.number, self.block(options))

    def memory(self, options: TransformerOptions) -> dict[str, Any]:
        """Return what this entry keeps during one run; empty outside of one."""
        run = run_of(options)
        return {} if run is None else run.memory(self.entry.number)

    def lasting(self, make: Callable[[], T]) -> T:
        """Return what `make` gives, which may outlive the block that runs now.

        A host's memory compiler takes what a block allocates for free again in the next block, but while it pauses.
        """
        with self.pause():
            return make()

    def skip(self, options: TransformerOptions, reason: str) -> None:
        """Note why the patch cannot act in a call inside its blocks and window; the report shows the last reason."""
        run = run_of(options)
        if run is not None:
            run.skips[self.entry.number] = reason

    def block(self, options: TransformerOptions) -> BlockId | None:
        """Return the block of the current call."""
        block = current_block(options)
        return block._replace(inner=0) if self.whole and block is not None else block


def curve_weight(schedule: Schedule, options: TransformerOptions) -> float:
    """Return the strength of a schedule for the current call; outside of a run it is that of the first step."""
    if schedule.always:
        return 1.0
    run = run_of(options)
    return schedule.weight(run.percent(options) if run is not None else 0.0)
