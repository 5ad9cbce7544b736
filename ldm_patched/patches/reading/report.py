"""The report of a sampling run: a table of the calls in each block, and what became of each patch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .recorder import Call, Entry, Recorder, Tally
from .router import SLOT
from .targets import BlockId

COLUMNS = ("block", "attention", "heads", "function", "calls", "steps", "time", "patches", "note")
NOTHING = "This model has no Patchbay patch or backend rule, so nothing was recorded."
NOT_RUN = "No run was recorded: sample with this model first."
ROOM_ORDER = {"input": 0, "middle": 1, "output": 2}


def table(recorder: Recorder | None) -> list[dict[str, Any]]:
    """Return a row for each block, kind of attention, function that ran and rule that chose it, as plain values.

    Attentions that the model entered and that called no function have the function `none`.
    """
    if recorder is None:
        return []
    counts = Counter(recorder.calls)
    counts.update({Call(block, kind, "none"): count for (block, kind), count in missed(recorder).items()})
    return [_row(recorder, call, counts[call]) for call in sorted(counts, key=_order)]


def text(recorder: Recorder | None) -> str:
    """Return the whole report for reading."""
    if recorder is None:
        return NOTHING
    rows = table(recorder)
    if not rows:
        return "\n".join([NOT_RUN, *(f"{entry.number}. {entry.name}" for entry in recorder.entries)])
    head = [_summary(recorder), *_fallbacks(recorder), *_faults(recorder)]
    lines = [list(COLUMNS), *([str(row[name]) for name in COLUMNS] for row in rows)]
    return "\n".join([*head, "", *_entries(recorder), "", *layout(lines)])


def steps(recorder: Recorder | None) -> list[dict[str, Any]]:
    """Return a row for each step and function that ran in it: calls, how many of them fell back, and seconds."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for (call, step), tally in sorted(recorder.tallies.items(), key=_when) if recorder is not None else ():
        new = {"step": step, "function": call.backend, "calls": 0, "fallbacks": 0, "seconds": 0.0}
        row = rows.setdefault((step, call.backend), new)
        row["calls"] += tally.count
        row["fallbacks"] += tally.count if call.fallback else 0
        row["seconds"] = round(row["seconds"] + tally.seconds, 6)
    return list(rows.values())


def _when(item: tuple[tuple[Call, int], Tally]) -> tuple[int, str]:
    (call, step), _ = item
    return step, call.backend


def missed(recorder: Recorder) -> dict[tuple[BlockId | None, str], int]:
    """Return how many attentions of each block and kind the model entered without a call that took the override."""
    called: Counter[tuple[BlockId | None, str | None]] = Counter()
    for call, count in recorder.calls.items():
        called[call.block, call.kind] += count
    return {cell: count - called[cell] for cell, count in recorder.seen.items() if count > called[cell]}


def _row(recorder: Recorder, call: Call, count: int) -> dict[str, Any]:
    heads = recorder.blocks.get(call.block) if call.block is not None else None
    note = f"instead of {call.fallback.partition(':')[0]}" if call.fallback else ""
    return {
        "block": "-" if call.block is None else str(call.block),
        "attention": call.kind or "-",
        "heads": f"{heads[0]} x {heads[1]}" if heads and all(heads) else "-",
        "function": call.backend,
        "calls": count,
        "steps": _ranges([step for known, step in recorder.tallies if known == call]),
        "time": _share(recorder, call),
        "patches": ", ".join(_uses(recorder, call)),
        "note": "no call took the override" if call.backend == "none" else note,
    }


def _share(recorder: Recorder, call: Call) -> str:
    """Return the part of the time of all attention calls that a group of calls took."""
    seconds = sum(tally.seconds for (known, _), tally in recorder.tallies.items() if known == call)
    total = sum(tally.seconds for tally in recorder.tallies.values())
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


def _uses(recorder: Recorder, call: Call) -> list[str]:
    uses = []
    for entry in recorder.entries:
        count = recorder.patched[entry.number, call.block]
        if entry.slot == SLOT:
            if entry.number == call.rule:
                uses.append(entry.name)
        elif count and (call.block, call.kind) in entry.targets:
            uses.append(f"{entry.name} x{count}")
    return uses


def _order(call: Call) -> tuple:
    block = call.block or BlockId("", 0)
    return (ROOM_ORDER.get(block.room, 3), block, call.kind != "self", call.backend, call.fallback, call.rule or 0)


def _summary(recorder: Recorder) -> str:
    functions: Counter[str] = Counter()
    for call, count in recorder.calls.items():
        functions[call.backend] += count
    took, lost = functions.total(), sum(missed(recorder).values())
    fell = sum(count for call, count in recorder.calls.items() if call.fallback)
    head = f"{took} of {took + lost} attention calls took the override" if lost else f"{took} attention calls"
    parts = ", ".join(f"{name} {count}" for name, count in functions.most_common())
    return head + (f": {parts}" if parts else "") + (f"; {fell} fell back" if fell else "") + "."


def _fallbacks(recorder: Recorder) -> list[str]:
    reasons = dict.fromkeys(call.fallback for call in recorder.calls if call.fallback)
    return [f"Fell back from {reason}." for reason in reasons]


def _faults(recorder: Recorder) -> list[str]:
    return [
        f"Not finite in {'-' if fault.block is None else fault.block} {fault.kind or ''} at step {fault.step} on "
        f"{fault.backend}, {count} times: {fault.outcome}."
        for fault, count in recorder.faults.items()
    ]


# What became of each patch


def _entries(recorder: Recorder) -> list[str]:
    return [f"{entry.number}. {entry.name}: {fate(recorder, entry)}" for entry in recorder.entries]


def fate(recorder: Recorder, entry: Entry) -> str:
    """Tell what became of an entry in the last run: where it ran, or why it never did."""
    ran = {block: count for (number, block), count in recorder.patched.items() if number == entry.number}
    if not ran:
        return f"never ran, {_why_not(recorder, entry)}"
    wanted = list(dict.fromkeys(block for block, _ in entry.targets))
    missing = [str(block) for block in wanted if block not in ran]
    reason = f" ({recorder.skips[entry.number]})" if entry.number in recorder.skips else ""
    where = f"in {len(ran)} of {len(wanted)} blocks" if wanted else "everywhere"
    return f"ran {sum(ran.values())} times {where}" + (f"; never in {', '.join(missing)}{reason}" if missing else "")


def _why_not(recorder: Recorder, entry: Entry) -> str:
    """Tell the first reason that holds why an entry had no part in a run."""
    if entry.neutral:
        return "its settings change nothing"
    if entry.number not in {number for number, _ in recorder.placed}:
        if entry.slot == SLOT:
            return "another node took the attention override after it"
        return "another patch took its place after it"
    if recorder.percents and not any(entry.schedule.weight(percent) for percent in recorder.percents.values()):
        return "no step of the run lay in its window with a strength above 0"
    if entry.slot == SLOT:
        return "no call was left for it: rules of later nodes or patches that replace the attention came first"
    if entry.number in recorder.skips:
        return recorder.skips[entry.number]
    return "the model did not enter its blocks"


def layout(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of cells with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
