"""Where and when a patch acts: blocks, a window of the run and a curve of strength, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from .address import Address, parse
from .schedule import Schedule


@dataclass(frozen=True)
class Where:
    """The blocks of `address` during `schedule`."""

    address: Address = Address()
    schedule: Schedule = Schedule()

    @classmethod
    def of(
        cls,
        blocks: str = "all",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        curve: str = "constant",
        kind: str = "all",
    ) -> Where:
        """Read blocks, narrowed to `self`- or `cross`-attention or whole `block`s, a window and a curve.

        Raises ValueError, AddressError for the blocks, naming the value and the fix.
        """
        return cls(parse(blocks).narrowed(kind), Schedule(start_percent, end_percent, curve))

    def __str__(self) -> str:
        return f"{self.address}{self.schedule.suffix}"
