"""What became of patches under a gate, in words: how often each was let through and held back, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..addressing.address import BlockId
from ..engine.stack import KINDS
from ..record.plan import Entry
from ..record.run import BLENDED, HELD_BACK, LET_THROUGH, HeldCall, Run
from ..record.tally import Call

OUTCOMES = (LET_THROUGH, BLENDED, HELD_BACK)


def uses(run: Run, entry: Entry, call: Call) -> list[str]:
    """Return what a gate did in a group of attention calls, such as `let through x4, held back 2 times`.

    The page counts what has an x as uses.
    """
    found: Counter[str] = Counter()
    for held, count in run.held.items():
        kind = KINDS.get(held.slot.partition("_")[0], call.kind)
        if (held.number, held.block, kind) == (entry.number, call.block, call.kind):
            found[held.outcome] += count
    done = [f"{outcome} x{found[outcome]}" for outcome in (LET_THROUGH, BLENDED) if outcome in found]
    done += [f"{HELD_BACK} {found[HELD_BACK]} times"] if HELD_BACK in found else []
    return [f"{entry.name} {', '.join(done)}"] if done else []


def fate(run: Run, entry: Entry) -> str:
    """Return what a gate did in a run, by patch; empty where none of its patches was called."""
    held = [one for one in run.held if one.number == entry.number]
    told = []
    for name, slot in dict.fromkeys((one.name, one.slot) for one in held):
        mine = [one for one in held if (one.name, one.slot) == (name, slot)]
        told.append(f"{name} ({slot}) {_outcomes(run, mine)}")
    reason = f" ({run.skips[entry.number]})" if told and entry.number in run.skips else ""
    return "; ".join(told) + reason


def _outcomes(run: Run, held: Sequence[HeldCall]) -> str:
    counts = {outcome: sum(run.held[one] for one in held if one.outcome == outcome) for outcome in OUTCOMES}
    where = {outcome: ranges(one.block for one in held if one.outcome == outcome and one.block) for outcome in OUTCOMES}
    told = {outcome: f"{outcome} {count} times" for outcome, count in counts.items() if count}
    if len({where[outcome] for outcome in told}) > 1:
        return ", ".join(f"{text} in {where[outcome]}" for outcome, text in told.items())
    places = where[next(iter(told))]
    return ", ".join(told.values()) + (f", each in {places}" if places else "")


def ranges(blocks: Iterable[BlockId]) -> str:
    """Name blocks, those that follow one another as one: `input:4-5, middle`."""
    found: list[tuple[str, int, int]] = []
    for type, number in dict.fromkeys(block[:2] for block in sorted(blocks)):
        if found and (type, number - 1) == (found[-1][0], found[-1][2]):
            found[-1] = (type, found[-1][1], number)
        else:
            found.append((type, number, number))
    names = (str(BlockId(type, first)) + (f"-{last}" if last > first else "") for type, first, last in found)
    return ", ".join(names)
