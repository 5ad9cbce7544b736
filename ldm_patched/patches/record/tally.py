"""How attention calls are counted: equal ones in one group, and of each group how many there were in each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..addressing.address import BlockId

Use = tuple[int, BlockId | None]  # an entry by its number, and the block where it acts


class Call(NamedTuple):
    """A group of equal attention calls: where, self or cross, which function, why not the one asked for, whose rule.

    `rule` is the number of the entry whose rule chose the function; `preferred` says that the checkpoint did.
    """

    block: BlockId | None
    kind: str | None
    backend: str
    fallback: str = ""
    rule: int | None = None
    preferred: bool = False


@dataclass(slots=True)
class Tally:
    """How many calls there were, and how long they took."""

    count: int = 0
    seconds: float = 0.0


@dataclass(eq=False, slots=True)
class Account:
    """Where equal attention calls are counted: their group, the entry that looks at their results, and their tallies.

    There are no tallies before the first call.
    """

    call: Call
    watch: int | None = None
    tallies: dict[int, Tally] | None = None
    uses: tuple[Use, ...] = field(init=False)

    def __post_init__(self) -> None:
        numbers = (self.call.rule, self.watch)
        self.uses = tuple((number, self.call.block) for number in numbers if number is not None)
