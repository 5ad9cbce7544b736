"""The report of a sweep: one page that opens without a network, with the pictures beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .store import write

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write report.html into the folder of a sweep."""
    data = json.dumps(rows).replace("<", "\\u003c")  # a value cannot end the script
    write(folder / "report.html", TEMPLATE.read_text(encoding="utf-8").replace("[/*rows*/]", data).encode())
