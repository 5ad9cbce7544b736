"""The report of a sweep: one page that opens without a network, with the images beside it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .choices import read_answers
from .store import NOTHING, Store, write
from .study import Study
from .summary import as_csv, summary

SHARE = 0.05  # of the time may go into reports
TEMPLATE = Path(__file__).with_name("report.html")
SETTINGS = Path(__file__).with_name("report_settings.html")


def write_report(
    folder: Path, rows: list[dict[str, Any]], settings: Sequence[Mapping[str, Any]] = (), study: Study = NOTHING
) -> None:
    """Write report.html into the folder of a sweep; with settings it says what their repeats say together."""
    shown = [{name: _shown(value) for name, value in row.items()} for row in rows]
    for row in shown:
        row["images"] = [quote(image) for image in row.get("images", [])]
    page = TEMPLATE.read_text(encoding="utf-8").replace("[/*rows*/]", _script(shown))
    if settings:
        part = SETTINGS.read_text(encoding="utf-8")
        part = part.replace("{/*study*/}", _script(study.plain()))
        page += part.replace("[/*settings*/]", _script([_setting(one) for one in settings]))
    write(folder / "report.html", page.encode())


def _script(value: Any) -> str:
    """Return a value as JavaScript; none of its texts can end the script."""
    return json.dumps(value).replace("<", "\\u003c")


def _setting(one: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, "setting": {name: _shown(value) for name, value in one["setting"].items()}}


def _shown(value: Any) -> Any:
    """Return a value as the page can show it: its numbers are floats, in which a large seed would be another one."""
    return str(value) if isinstance(value, int) and abs(value) > 2**53 else value


class Report:
    """The tables and the report of a sweep while it runs: written often, but not so often that it takes long."""

    def __init__(self, store: Store) -> None:
        self.store, self.next = store, 0.0
        self.settings: list[dict[str, Any]] = []

    def update(self) -> None:
        """Write them if it is time."""
        if time.monotonic() >= self.next:
            self.write()

    def write(self) -> list[dict[str, Any]]:
        """Write them and return the rows."""
        begin = time.monotonic()
        rows, study = self.store.tables(), self.store.study
        answers = read_answers(self.store.folder)
        if study != NOTHING or answers:
            self.settings = summary(rows, study, answers)
            self.store.write("settings.csv", as_csv(self.settings))
        write_report(self.store.folder, rows, self.settings, study)
        self.store.share("report.html")
        self.next = time.monotonic() + (time.monotonic() - begin) / SHARE
        return rows
