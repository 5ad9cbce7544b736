"""The report of a sweep: one page that opens without a network, with the images beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .store import Store, write

SHARE = 0.05  # of the time may go into reports
TEMPLATE = Path(__file__).with_name("report.html")


def write_report(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write report.html into the folder of a sweep."""
    shown = [{name: _shown(value) for name, value in row.items()} for row in rows]
    for row in shown:
        row["images"] = [quote(image) for image in row.get("images", [])]
    data = json.dumps(shown).replace("<", "\\u003c")  # a value cannot end the script
    write(folder / "report.html", TEMPLATE.read_text(encoding="utf-8").replace("[/*rows*/]", data).encode())


def _shown(value: Any) -> Any:
    """Return a value as the page can show it: its numbers are floats, in which a large seed would be another one."""
    return str(value) if isinstance(value, int) and abs(value) > 2**53 else value


class Report:
    """The tables and the report of a sweep while it runs: written often, but not so often that it takes long."""

    def __init__(self, store: Store) -> None:
        self.store, self.next = store, 0.0

    def update(self) -> None:
        """Write them if it is time."""
        if time.monotonic() >= self.next:
            self.write()

    def write(self) -> list[dict[str, Any]]:
        """Write them and return the rows."""
        begin = time.monotonic()
        rows = self.store.tables()
        write_report(self.store.folder, rows)
        self.next = time.monotonic() + (time.monotonic() - begin) / SHARE
        return rows
