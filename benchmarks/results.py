"""Keep what a benchmark measured: a whole file at once, or a line of JSON for each result."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_json(path: Path, data: Any) -> None:
    """Write data to `path`, complete or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".tmp") as file:
        json.dump(data, file, indent=1)
    os.replace(file.name, path)


def print_rows(rows: Iterable[dict[str, Any]], path: Path | None, about: dict[str, Any]) -> None:
    """Print rows as a table as they come, with a new head where their columns change; write all to `path`, if any."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if not found or list(row) != list(found[-1]):
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
        found.append(row)
    if path:
        write_json(path, {**about, "rows": found})


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add a line; it is on the disk when this returns."""
    with path.open("ab") as file:
        file.write(json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def drop_half_line(path: Path) -> None:
    """Cut off what a killed writer left behind the last whole line."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, without a half line at its end; none where there is no file.

    Raises ValueError, naming the line, for a whole one that is no JSON object.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise ValueError(f"{path}, line {number}: not a result")
        found.append(entry)
    return found
