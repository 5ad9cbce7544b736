"""The raw lines of the table: which cell each is of, and whether it is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from results import read_lines

PLACE = ("measure", "row", "column", "blocks", "device", "dtype", "on", "steps")
ABOUT = (*PLACE, "title", "text", "host", "when")
TIMES = ("ms", "default_ms")
MEASURED = (*TIMES, "share", "peak", "error", "worst", "difference", "floor", "functions", "picture_steps")


def place(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return which cell a line is of: what is measured again under any other."""
    return tuple(line[name] for name in PLACE)


def cells(raw: Path) -> list[dict[str, Any]]:
    """Return the lines of a raw file; raises ValueError for one that is no cell."""
    lines = read_lines(raw)
    for number, line in enumerate(lines, 1):
        where = f"{raw}, line {number}: not a cell of the table, as"
        measured = line.get("measure") == "step" and "failed" not in line
        if lacking := [name for name in (*ABOUT, *(MEASURED if measured else ())) if name not in line]:
            raise ValueError(f"{where} it has no {', '.join(lacking)}")
        if wrong := [name for name in TIMES if measured and not are_times(line[name])]:
            raise ValueError(f"{where} {' and '.join(wrong)} must be times above 0")
    return lines


def are_times(value: Any) -> bool:
    """Return whether a value is a list of one or more times."""
    return isinstance(value, list) and bool(value) and all(isinstance(ms, (int, float)) and ms > 0 for ms in value)
