"""The report of a sampling run: a table of the calls in each block, and what became of each patch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..addressing.address import BlockId
from ..engine.host import Host
from ..engine.router import SLOT
from ..patcher import Patcher
from ..record.archive import ARCHIVE, GoneError
from ..record.plan import Entry, Plan, plan_of
from ..record.run import Run
from ..record.tally import Call, Tally
from . import held
from .fate import fate, only_fell_back

COLUMNS = ("block", "attention", "heads", "function", "calls", "steps", "time", "patches", "note")
NOTHING = "This model has no Patchbay patch or backend rule, so nothing was recorded."
TWINS = "Earlier runs gave this very latent too, to the bit, by other calls; this is the report of the last one."
NO_CALLS = "The run called no attention that a patch or rule could see."
TYPE_ORDER = {"input": 0, "middle": 1, "output": 2}


Row = dict[str, Any]  # of a table, as plain values


class Report(NamedTuple):
    """The report of a run: for reading, and as plain values a row for each group of calls, step and patch.

    `head` are the lines in front of the patches.
    """

    text: str
    table: list[Row]
    steps: list[Row]
    fates: Sequence[Row] = ()
    head: Sequence[str] = ()


def report(model: Patcher, samples: Tensor, host: Host | None = None) -> Report:
    """Return the report of the run of a model patcher that gave a latent; it says so where that run is not known.

    A `host` is told of in its last line.
    """
    plan = plan_of(model)
    if plan is None:
        return Report(NOTHING, [], [])
    try:
        run, *earlier = ARCHIVE.runs(samples, plan)
    except GoneError as error:
        return Report("\n".join([f"No run was recorded: {error}.", *_listed(plan)]), [], [])
    twins = [TWINS] if any(other.calls != run.calls for other in earlier) else []
    lines = [text(run), *twins]
    lines += [] if host is None else ["", str(host.able())]
    return Report("\n".join(lines), table(run), steps(run), fates(run), [*_head(run), *twins])


def _listed(plan: Plan) -> list[str]:
    return [f"{entry.number}. {entry.name}" for entry in _in_order(plan)]


def _in_order(plan: Plan) -> list[Entry]:
    return sorted(plan.entries, key=lambda entry: entry.number)


def table(run: Run) -> list[Row]:
    """Return a row for each block, kind of attention, function that ran and rule that chose it, as plain values.

    Attentions that the model entered and that called no function have the function `none`.
    """
    counts = Counter(run.calls)
    counts.update({Call(block, kind, "none"): count for (block, kind), count in missed(run).items()})
    return [_row(run, call, counts[call]) for call in sorted(counts, key=_order)]


def text(run: Run) -> str:
    """Return the whole report for reading."""
    rows = table(run)
    if not rows:
        return "\n".join([NO_CALLS, *_listed(run.plan)])
    lines = [list(COLUMNS), *([str(row[name]) for name in COLUMNS] for row in rows)]
    entries = [f"{row['number']}. {row['name']}: {row['fate']}" for row in fates(run)]
    return "\n".join([*_head(run), "", *entries, "", *layout(lines)])


def _head(run: Run) -> list[str]:
    if not run.calls and not missed(run):
        return [NO_CALLS]
    return [_summary(run), *_fallbacks(run), *_faults(run), *_more_rows(run), *sorted(run.notes)]


def steps(run: Run) -> list[Row]:
    """Return a row for each step and function that ran in it: calls, how many of them fell back, and seconds."""
    rows: dict[tuple[int, str], Row] = {}
    for call, step, tally in sorted(_by_step(run), key=_when):
        new = {"step": step, "function": call.backend, "calls": 0, "fallbacks": 0, "seconds": 0.0}
        row = rows.setdefault((step, call.backend), new)
        row["calls"] += tally.count
        row["fallbacks"] += tally.count if call.fallback else 0
        row["seconds"] = round(row["seconds"] + tally.seconds, 6)
    return list(rows.values())


def _by_step(run: Run) -> Iterator[tuple[Call, int, Tally]]:
    for call, steps in list(run.tallies.items()):
        yield from ((call, step, tally) for step, tally in list(steps.items()))


def _when(item: tuple[Call, int, Tally]) -> tuple[int, str]:
    call, step, _ = item
    return step, call.backend


def missed(run: Run) -> dict[tuple[BlockId | None, str], int]:
    """Return how many attentions of each block and kind the model entered without a call that took the override."""
    called: Counter[tuple[BlockId | None, str | None]] = Counter()
    for call, count in run.calls.items():
        called[call.block, call.kind] += count
    return {attention: count - called[attention] for attention, count in run.seen.items() if count > called[attention]}


def _row(run: Run, call: Call, count: int) -> Row:
    heads = run.plan.blocks.get(call.block) if call.block is not None else None
    note = f"instead of {call.fallback.partition(':')[0]}" if call.fallback else ""
    note = "preferred by the model" if call.preferred else note
    return {
        "block": "-" if call.block is None else str(call.block),
        "attention": call.kind or "-",
        "heads": f"{heads[0]} x {heads[1]}" if heads and all(heads) else "-",
        "function": call.backend,
        "calls": count,
        "steps": _ranges(run.tallies.get(call, ())),
        "time": _share(run, call),
        "patches": ", ".join(_uses(run, call)),
        "note": "no call took the override" if call.backend == "none" else note,
    }


def _share(run: Run, call: Call) -> str:
    """Return the part of the time of all attention calls that a group of calls took."""
    seconds = sum(tally.seconds for tally in run.tallies.get(call, {}).values())
    total = sum(tally.seconds for *_, tally in _by_step(run))
    return f"{100 * seconds / total:.0f} %" if total else "-"


def _ranges(numbers: Iterable[int]) -> str:
    """Write numbers as ranges, such as 1-10, 12; a step of 0 is unknown."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers) - {0}):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "-"


def _uses(run: Run, call: Call) -> list[str]:
    uses = []
    for entry in run.entries:
        count = run.patched.get((entry.number, call.block), 0)
        if entry.slot == SLOT:
            if entry.number == call.rule:
                uses.append(entry.name)
        elif run.holds(entry.number):
            uses += held.uses(run, entry, call)
        elif count and (call.block, call.kind) in entry.targets:
            uses.append(f"{entry.name} x{count}")
    return uses


def _order(call: Call) -> tuple[object, ...]:
    block = call.block or BlockId("", 0)
    return (TYPE_ORDER.get(block.type, 3), block, call.kind != "self", call.backend, call.fallback, call.rule or 0)


def _summary(run: Run) -> str:
    functions: Counter[str] = Counter()
    for call, count in run.calls.items():
        functions[call.backend] += count
    took, lost = functions.total(), sum(missed(run).values())
    fell = sum(count for call, count in run.calls.items() if call.fallback)
    head = f"{took} of {took + lost} attention calls took the override" if lost else f"{took} attention calls"
    parts = [f"{name} {count}" for name, count in functions.most_common()]
    parts += [f"{run.in_front} took {'the others' if took else 'them'}"] if lost and run.in_front else []
    return head + (f": {', '.join(parts)}" if parts else "") + (f"; {fell} fell back" if fell else "") + "."


def _fallbacks(run: Run) -> list[str]:
    reasons = dict.fromkeys(call.fallback for call in run.calls if call.fallback)
    return [f"Fell back from {reason}." for reason in reasons]


def _faults(run: Run) -> list[str]:
    return [
        f"Not finite in {'-' if fault.block is None else fault.block} {fault.kind or ''} at step {fault.step} on "
        f"{fault.backend}, {count} times: {fault.outcome}."
        for fault, count in run.faults.items()
    ]


def _more_rows(run: Run) -> list[str]:
    if not run.more_rows:
        return []
    by = run.forward or run.others.get("attn2_patch") or "Another node"
    return [
        f"{by} put rows of keys on {len(run.more_rows)} attentions that belong to no query; "
        "there a patch replaces the attention that would read them, so they have no effect: leave these blocks out of "
        "the patch to keep it."
    ]


def fates(run: Run) -> list[Row]:
    """Return a row for each patch and rule: its number, its name, what became of it, and whether it acted."""
    ran = {number for number, _ in run.patched}
    return [
        {
            "number": entry.number,
            "name": entry.name,
            "fate": fate(run, entry),
            "ran": (entry.number in ran or run.holds(entry.number)) and not only_fell_back(run, entry),
        }
        for entry in _in_order(run.plan)
    ]


def layout(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
