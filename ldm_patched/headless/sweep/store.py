"""The folder of a sweep: a file for each finished cell, from which tables and the report are made at any time."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import Failure
from .cells import Cell
from .difference import difference
from .runner import Outcome

PLAN = "sweep.json"
NUMBERS = ("max", "mean", "psnr", "ssim", "lpips")


class Store:
    """A folder; every file in it is complete, whenever the process dies."""

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
        """Return where a cell puts its pictures while it runs."""
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
        """Keep what came of a cell: first its pictures, then the file that says so."""
        part, whole = self.place(cell), self.folder / "cells" / cell.id
        if whole.exists():
            shutil.rmtree(whole)
        if part.exists():
            part.rename(whole)
        about = {"choice": cell.choice, "worker": worker, **outcome.plain()}
        write(self.folder / "cells" / f"{cell.id}.json", json.dumps(about, indent=1).encode())

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each finished cell, with its difference to the baseline."""
        baseline = next((cell for cell in self.cells if cell.baseline), None)
        first = self.result(baseline) if baseline else None
        rows = []
        for cell in self.cells:
            result = self.result(cell)
            if result is not None:
                rows.append(self._row(cell, result, baseline, first))
        return rows

    def _row(self, cell: Cell, result: dict[str, Any], baseline: Cell | None, first: Any) -> dict[str, Any]:
        row = {"cell": cell.id, "baseline": cell.baseline, **cell.choice}
        row |= {name: result[name] for name in ("seconds", "step_seconds", "peak_bytes", "worker", "error")}
        row["backends"] = ", ".join(f"{name} x{count}" for name, count in result["backends"].items())
        row["image"] = f"cells/{cell.id}/{result['images'][0]}" if result["images"] else ""
        row |= dict.fromkeys(NUMBERS)
        if baseline is not None and first and first["images"] and row["image"]:
            row |= self._difference(row["image"], f"cells/{baseline.id}/{first['images'][0]}")
        return row

    def _difference(self, image: str, other: str) -> dict[str, float | None]:
        kept = self.folder / Path(image).parts[0] / f"{Path(image).parts[1]}.difference"
        if not kept.is_file():
            write(kept, json.dumps(difference(self.folder / image, self.folder / other)).encode())
        return json.loads(kept.read_text(encoding="utf-8"))

    def tables(self) -> list[dict[str, Any]]:
        """Write table.csv and table.parquet anew and return their rows."""
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(rows)
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
        plain = kinds <= {bool} or kinds <= {int, float} or kinds <= {str}
        columns[name] = values if plain else [None if value is None else json.dumps(value) for value in values]
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def write(path: Path, data: bytes) -> None:
    """Write a whole file or none."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
