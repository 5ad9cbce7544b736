"""The folder of a sweep: a file for each finished cell, from which tables and the report are made at any time."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..api.files import replacing
from ..engine.errors import Failure
from .cells import NUMBERS, Cell
from .difference import differences
from .runner import Outcome

PLAN, LOCK = "sweep.json", ".lock"


@contextlib.contextmanager
def opened(folder: Path, cells: Sequence[Cell]) -> Iterator[Store]:
    """Open the folder of a sweep, for one process at a time.

    Raises Failure when it is another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Failure(f"another sweep runs in {folder}; wait for it, or give another --folder") from None
    try:
        yield Store(folder, cells)
    finally:
        lock.release()  # a process that dies releases it too


class Store:
    """A folder; every file in it is complete, whenever the process dies. Get one by `opened`."""

    def __init__(self, folder: Path, cells: Sequence[Cell]) -> None:
        self.folder, self.cells = folder, list(cells)
        plan = {"cells": {cell.id: cell.choice for cell in cells}}
        if (folder / PLAN).is_file():
            known = json.loads((folder / PLAN).read_text(encoding="utf-8"))
            if known != json.loads(json.dumps(plan)):
                how = "give another --folder, or delete this one"
                raise Failure(f"{folder} holds a sweep of another workflow or other axes; {how}")
        else:
            (folder / "cells").mkdir(parents=True, exist_ok=True)
            write(folder / PLAN, json.dumps(plan, indent=1).encode())
        for unfinished in (folder / "cells").glob("*.part"):
            shutil.rmtree(unfinished)

    def place(self, cell: Cell) -> Path:
        """Return where a cell puts its images while it runs."""
        return self.folder / "cells" / f"{cell.id}.part"

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Return what is known of a cell."""
        file = self.folder / "cells" / f"{cell.id}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def waiting(self, again: bool = False) -> list[Cell]:
        """Return the cells that have not run; `again`: also those that failed."""
        found = []
        for cell in self.cells:
            result = self.result(cell)
            if result is None or (again and result["error"]):
                found.append(cell)
        return found

    def keep(self, cell: Cell, outcome: Outcome, worker: str) -> None:
        """Keep what came of a cell: first its images, then the file that says so."""
        part, whole = self.place(cell), self.folder / "cells" / cell.id
        for old in (self.folder / "cells").glob(f"{cell.id}*.difference"):
            old.unlink()
        if whole.exists():
            shutil.rmtree(whole)
        if part.exists():
            part.rename(whole)
        about = {"choice": cell.choice, "worker": worker, **outcome.plain()}
        write(self.folder / "cells" / f"{cell.id}.json", json.dumps(about, indent=1).encode())

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each finished cell, with its difference to the cell that it is compared with."""
        results = {cell.id: self.result(cell) for cell in self.cells}
        return [self._row(cell, result, results) for cell in self.cells if (result := results[cell.id]) is not None]

    def _row(self, cell: Cell, result: dict[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"cell": cell.id, "baseline": cell.baseline, "reference": cell.reference, **cell.choice}
        row |= {name: result[name] for name in ("seconds", "step_seconds", "peak_bytes", "peak_of", "worker", "error")}
        row["backends"] = ", ".join(f"{name} x{count}" for name, count in result["backends"].items())
        row["images"] = [f"cells/{cell.id}/{name}" for name in result["images"]]
        row["image"] = next(iter(row["images"]), "")
        row |= dict.fromkeys(NUMBERS)
        first = results.get(cell.reference)
        if first is not None and first["images"] and row["images"]:
            row |= self._difference(cell, row["images"], [f"cells/{cell.reference}/{name}" for name in first["images"]])
        return row

    def _difference(self, cell: Cell, images: list[str], others: list[str]) -> dict[str, float | None]:
        """Return the difference of a cell's images to those of the baseline; it is kept in a file."""
        files = [[(name, (self.folder / name).stat().st_mtime_ns) for name in names] for names in (images, others)]
        of = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:8]
        kept = self.folder / "cells" / f"{cell.id}.{of}.difference"
        if not kept.is_file():
            pairs = [(self.folder / one, self.folder / other) for one, other in zip(images, others, strict=False)]
            write(kept, json.dumps(differences(pairs)).encode())
        return json.loads(kept.read_text(encoding="utf-8"))

    def tables(self) -> list[dict[str, Any]]:
        """Write table.csv and table.parquet anew and return their rows."""
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows({**row, "images": json.dumps(row["images"])} for row in rows)
        write(self.folder / "table.csv", text.getvalue().encode())
        write(self.folder / "table.parquet", _parquet(rows, names))
        return rows


def _parquet(rows: list[dict[str, Any]], names: list[str]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        plain = any(kinds <= same for same in ({bool}, {int, float}, {str}, {list}))
        columns[name] = values if plain else [None if value is None else json.dumps(value) for value in values]
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a whole file or none, and have it on the disk."""
    with replacing(path, durable=True) as file:
        file.write(data)
