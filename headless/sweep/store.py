"""The folder of a sweep: a file for each finished cell, from which tables and the report are made at any time."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...ldm_patched.files.whole import replacing, sync_file, sync_folder
from ..api.folders import inside
from ..engine.errors import Failure
from ..engine.workflow import one_line
from .away import Away
from .cells import NUMBERS, Cell
from .choices import counted, read_answers
from .difference import differences
from .parquet import as_parquet
from .runner import Outcome
from .study import Study

PLAN, LOCK = "sweep.json", ".lock"
MADE = (PLAN, "table.csv", "table.parquet", "settings.csv", "report.html")  # in the folder, beside the cells
SERVED = ("waited_seconds", "cost")  # numbers that only services give
NOTHING = Study()


@contextlib.contextmanager
def opened(folder: Path, cells: Sequence[Cell], study: Study = NOTHING, away: Away | None = None) -> Iterator[Store]:
    """Open the folder of a sweep, for one process at a time.

    Raises Failure when it is another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_ours(folder, cells, away)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Failure(f"another sweep runs in {folder}; wait for it, or give another --folder") from None
    try:
        yield Store(folder, cells, study, away)
    finally:
        lock.release()  # a process that dies releases it too


@contextlib.contextmanager
def opened_again(folder: Path) -> Iterator[Store]:
    """Open the folder of a sweep whose workflow is not at hand: all but running cells can be done with it.

    Raises Failure when there is none, or it is another's.
    """
    plan = read(folder / PLAN)
    if plan is None or not isinstance(plan.get("cells"), dict):
        raise Failure(f"{folder} is the folder of no sweep; write what --folder was")
    try:
        cells = [Cell(dict(choice), {}, **plan["roles"][id], known=id) for id, choice in plan["cells"].items()]
    except (KeyError, TypeError, ValueError):  # an older version wrote no roles
        raise Failure(f"{folder / PLAN} does not say enough; start the sweep again, which keeps its cells") from None
    with opened(folder, cells, Study.read(plan.get("study"))) as store:
        yield store


class Store:
    """A folder; every file in it is complete, whenever the process dies. Get one by `opened`.

    Where it is `away`, what is finished goes there: first the pictures of a cell, then the file that says so.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], study: Study = NOTHING, away: Away | None = None) -> None:
        self.folder, self.cells, self.study, self.away = folder, list(cells), study, away
        self._digests: dict[tuple[Path, int, int], str] = {}
        plan = {"cells": {cell.id: cell.choice for cell in cells}, "roles": {cell.id: cell.role for cell in cells}}
        plan = json.loads(json.dumps({**plan, "study": study.plain()}))
        known = read(folder / PLAN)
        if known and known.get("cells") != plan["cells"]:
            how = "give another --folder, or delete this one"
            raise Failure(f"{_place(folder, away)} holds a sweep of another workflow or other axes; {how}")
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        if known != plan:  # none, damaged, or of an older version: each cell says of itself what it is of
            self.write(PLAN, json.dumps(plan, indent=1).encode())
        for cell in cells:
            _remove(self.place(cell))

    def place(self, cell: Cell) -> Path:
        """Return where a cell puts its images while it runs."""
        return self.folder / "cells" / f"{cell.id}.part"

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Return what is known of a cell; nothing where a file of it is damaged or gone, so that it runs again."""
        found = read(self.folder / "cells" / f"{cell.id}.json")
        whole = self.folder / "cells" / cell.id
        if not found or not _is_result(found):
            return None
        digests = found.get("digests", {})
        there = {name for name in found["images"] if self._is_away(f"cells/{cell.id}/{name}")}
        lost = [
            name for name in found["images"] if name not in there and not self._is_whole(whole, name, digests.get(name))
        ]
        if lost:
            logging.warning("%s: the picture %s is gone or damaged; the cell runs again", whole, one_line(lost[0]))
        return None if lost else found

    def _is_away(self, name: str) -> bool:
        """Return whether a file is only there: it went there whole, before the file that names it."""
        return self.away is not None and self.away.has(name) and not (self.folder / name).exists()

    def _is_whole(self, folder: Path, name: str, digest: str | None) -> bool:
        """Return whether a picture lies in its folder as it was kept; it is read once, and again when it changes."""
        try:
            path = inside(folder, name)
            status = path.stat()
        except (OSError, ValueError):
            return False
        if not status.st_size or not path.is_file():
            return False
        key = (path, status.st_size, status.st_mtime_ns)
        if digest is not None and key not in self._digests:
            self._digests[key] = _digest(path)
        return digest is None or self._digests[key] == digest

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
        if self.away is not None:
            self.away.remove(f"cells/{cell.id}.json")  # what it says is over
        for old in (self.folder / "cells").glob(f"{cell.id}*.difference"):
            old.unlink()
        _remove(whole)
        if part.exists():
            for path in part.rglob("*"):
                sync_folder(path) if path.is_dir() else sync_file(path)
            sync_folder(part)
            part.rename(whole)
        digests = {name: _digest(whole / name) for name in outcome.images if (whole / name).is_file()}
        about = {"choice": cell.choice, "worker": worker, **outcome.plain(), "digests": digests}
        for name in digests:
            self.share(f"cells/{cell.id}/{name}")
        self.write(f"cells/{cell.id}.json", json.dumps(about, indent=1).encode())

    def write(self, name: str, data: bytes) -> None:
        """Write a file into the folder, here and away."""
        write(self.folder / name, data)
        self.share(name)

    def share(self, name: str) -> None:
        """Send a file of the folder to where it is away from here."""
        if self.away is not None:
            self.away.put(self.folder, name)

    def bring(self, name: str) -> None:
        """Have a file of the folder here."""
        if self.away is not None:
            self.away.get(self.folder, name)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each finished cell, with its difference to the cell that it is compared with."""
        results = {cell.id: self.result(cell) for cell in self.cells}
        rows = [self._row(cell, result, results) for cell in self.cells if (result := results[cell.id]) is not None]
        answers = counted(read_answers(self.folder))
        if answers:
            for row in rows:
                row["chosen"], row["shown"] = answers.get(row["cell"], (0.0, 0))
        return rows

    def digest(self, cell: Cell) -> str:
        """Return what the first picture of a cell is known by; its own id where it has none."""
        result = self.result(cell)
        names = [result["digests"].get(name) for name in result["images"]] if result else []
        return str(names[0]) if names and names[0] else cell.id

    def _row(self, cell: Cell, result: dict[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"cell": cell.id, **cell.role, **cell.choice, "warm_up": result.get("warm_up") is True}
        row |= {name: result[name] for name in ("seconds", "step_seconds", "peak_bytes", "peak_of", "worker", "error")}
        row["backends"] = ", ".join(f"{name} x{count}" for name, count in result["backends"].items())
        row |= {name: value for name in SERVED if (value := result.get(name)) is not None}
        row["images"] = [f"cells/{cell.id}/{name}" for name in result["images"]]
        row["image"] = next(iter(row["images"]), "")
        row |= dict.fromkeys(NUMBERS)
        first = results.get(cell.reference)
        if first is not None and first["images"] and row["images"]:
            row |= self._difference(cell, result, first)
        return row

    def _difference(self, cell: Cell, result: dict[str, Any], first: dict[str, Any]) -> dict[str, float | None]:
        """Return the difference of a cell's images to those of the baseline; it is kept in a file."""
        sides = [(cell.id, result), (cell.reference, first)]
        digests = [[one.get("digests", {}).get(name, name) for name in one["images"]] for _, one in sides]
        of = hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:8]
        kept = f"cells/{cell.id}.{of}.difference"
        try:
            found = read(self.folder / kept)
            if found is None or not all(isinstance(value, (float, int, type(None))) for value in found.values()):
                images, others = ([f"cells/{id}/{name}" for name in one["images"]] for id, one in sides)
                for name in (*images, *others):
                    self.bring(name)
                found = differences([(self.folder / a, self.folder / b) for a, b in zip(images, others, strict=False)])
                self.write(kept, json.dumps(found).encode())
        except (OSError, ValueError, SyntaxError) as error:
            logging.warning("%s: its pictures cannot be compared: %s", self.folder / "cells" / cell.id, error)
            return {}
        return found

    def tables(self) -> list[dict[str, Any]]:
        """Write table.csv and table.parquet anew and return their rows."""
        rows = self.rows()
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows({**row, "images": json.dumps(row["images"])} for row in rows)
        self.write("table.csv", text.getvalue().encode())
        self.write("table.parquet", as_parquet(rows, names))
        return rows


def _check_ours(folder: Path, cells: Sequence[Cell], away: Away | None) -> None:
    """Raise Failure where files would be replaced that no sweep has made: a plan that is damaged has its cells."""
    found = [name for name in MADE if (folder / name).exists() or (away is not None and away.is_taken(name))]
    found += [LOCK] if (folder / LOCK).exists() and not _is_lock(folder / LOCK) else []
    kept = any((folder / "cells" / f"{cell.id}.json").exists() for cell in cells)
    if found and LOCK not in found and (kept or _is_plan(folder / PLAN)):
        return
    if found:
        raise Failure(
            f"{_place(folder, away)} holds a {found[0]} that is of no sweep, and stays; give another --folder"
        )


def _place(folder: Path, away: Away | None) -> Path | str:
    return folder if away is None else away.address


def _is_lock(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _is_plan(path: Path) -> bool:
    found = read(path) if path.is_file() else None
    return found is not None and isinstance(found.get("cells"), dict)


# Files that may be damaged


def read(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is no file, or it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (IsADirectoryError, ValueError, RecursionError) as error:
        found = error
    if not isinstance(found, dict):
        logging.warning("%s is damaged, and left out: %s", path, one_line(str(found))[:200])
        return None
    return found


def _is_result(found: Mapping[str, Any]) -> bool:
    """Return whether an object says all that is kept of a cell."""
    numbers = all(found.get(name, "") is None or _is_number(found.get(name)) for name in ("step_seconds", "peak_bytes"))
    numbers = numbers and all(found.get(name) is None or _is_number(found[name]) for name in SERVED)
    texts = all(isinstance(found.get(name), str) for name in ("peak_of", "worker", "error"))
    lists = isinstance(found.get("images"), list) and isinstance(found.get("backends"), dict)
    lists = lists and isinstance(found.get("digests", {}), dict)
    images = lists and all(isinstance(name, str) for name in found["images"])
    return numbers and texts and images and _is_number(found.get("seconds"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**62  # NaN is not


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def _remove(path: Path) -> None:
    """Remove a folder or a file, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a whole file or none, and have it on the disk."""
    with replacing(path, durable=True) as file:
        file.write(data)
