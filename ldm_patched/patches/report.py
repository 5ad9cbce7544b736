"""The report of a sampling run: a table of the calls in each block, and what became of each patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .recorder import Call, Entry, Recorder
from .targets import BlockId

COLUMNS = ("block", "attention", "heads", "function", "calls", "patches", "note")
NOTHING = "This model has no Patchbay patch or backend rule, so nothing was recorded."
ROOM_ORDER = {"input": 0, "middle": 1, "output": 2}


def table(recorder: Recorder | None) -> list[dict[str, Any]]:
    """Return a row for each block, kind of attention and function that ran, as plain values."""
    if recorder is None:
        return []
    return [_row(recorder, call, recorder.calls[call]) for call in sorted(recorder.calls, key=_order)]


def text(recorder: Recorder | None) -> str:
    """Return the whole report for reading."""
    if recorder is None:
        return NOTHING
    total = sum(recorder.calls.values())
    if not total:
        return "\n".join(["No attention call was recorded: sample with this model first.", *_entries(recorder)])
    rows = table(recorder)
    return "\n".join([_summary(recorder, total), *_fallbacks(recorder), "", *_entries(recorder), "", *_layout(rows)])


def _row(recorder: Recorder, call: Call, count: int) -> dict[str, Any]:
    heads = recorder.blocks.get(call.block) if call.block is not None else None
    names = [
        f"{entry.name} x{recorder.patched[entry, call.block]}"
        for entry in recorder.entries
        if recorder.patched[entry, call.block] and (call.block, call.kind) in entry.targets
    ]
    return {
        "block": "-" if call.block is None else str(call.block),
        "attention": call.kind or "-",
        "heads": f"{heads[0]} x {heads[1]}" if heads else "-",
        "function": call.backend,
        "calls": count,
        "patches": ", ".join(names),
        "note": f"instead of {call.fallback.partition(':')[0]}" if call.fallback else "",
    }


def _order(call: Call) -> tuple:
    block = call.block or BlockId("", 0)
    return (ROOM_ORDER.get(block.room, 3), block.room, block.number, block.index, call.kind != "self", call.backend)


def _summary(recorder: Recorder, total: int) -> str:
    functions: dict[str, int] = {}
    for call, count in recorder.calls.items():
        functions[call.backend] = functions.get(call.backend, 0) + count
    parts = [f"{name} {count}" for name, count in sorted(functions.items(), key=lambda item: -item[1])]
    fallbacks = sum(count for call, count in recorder.calls.items() if call.fallback)
    ruled = f"; {fallbacks} fell back" if fallbacks else ""
    return f"{total} attention calls: {', '.join(parts)}{ruled}."


def _fallbacks(recorder: Recorder) -> list[str]:
    reasons = dict.fromkeys(call.fallback for call in recorder.calls if call.fallback)
    return [f"Fell back from {reason}." for reason in reasons]


def _entries(recorder: Recorder) -> list[str]:
    return [f"{entry.number}. {entry.name}: {_fate(recorder, entry)}" for entry in recorder.entries]


def _fate(recorder: Recorder, entry: Entry) -> str:
    ran = {block: count for (owner, block), count in recorder.patched.items() if owner == entry}
    if not ran:
        return "never ran"
    wanted = list(dict.fromkeys(block for block, _ in entry.targets))
    missing = [str(block) for block in wanted if block not in ran]
    where = f"in {len(ran)} of {len(wanted)} blocks" if wanted else "everywhere"
    return f"ran {sum(ran.values())} times {where}" + (f"; never in {', '.join(missing)}" if missing else "")


def _layout(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [[str(row[name]) for name in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in [list(COLUMNS), *lines]) for i in range(len(COLUMNS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [list(COLUMNS), *lines]
    ]
