"""What ran on which ComfyUI, from junit files: `python -m attention_patchbay.tools.compatibility LABEL=FILE.xml ...`.

The tables of docs/compatibility.md are written anew, what stands around them is left. A label may have several files.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
VERSIONS = ("ComfyUI", "frontend", "Python", "torch")  # as tests/contract/conftest.py keeps them
BAD = ("failure", "error")


@dataclass
class Run:
    """The tests of one label: versions, day, results by area, and a line for each that failed or was skipped."""

    versions: dict[str, str] = field(default_factory=dict)
    day: str = ""
    areas: dict[str, Counter[str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, path: Path) -> None:
        """Add the tests of a junit file."""
        for suite in ElementTree.parse(path).iter("testsuite"):  # noqa: S314  # of our own tests
            self.day = max(self.day, suite.get("timestamp", "")[:10])
            self.versions |= {one.get("name", ""): one.get("value", "") for one in suite.iter("property")}
            for case in suite.iter("testcase"):
                self._add_case(case)

    def _add_case(self, case: ElementTree.Element) -> None:
        file = case.get("classname", "").rpartition(".")[2]
        kind = next((child.tag for child in case if child.tag in (*BAD, "skipped")), "passed")
        kind = "failed" if kind in BAD else kind
        self.areas.setdefault(area(file), Counter())[kind] += 1
        if kind == "failed":
            self.failed.append(f"{area(file)}: `{case.get('name')}`")
        elif kind == "skipped":
            reason = next(child for child in case if child.tag == "skipped").get("message", "")
            self.skipped[f"{area(file)}: {reason}"] += 1

    def total(self, kind: str) -> int:
        """Return how many tests ended so."""
        return sum(counts[kind] for counts in self.areas.values())


def area(file: str) -> str:
    """Return what a file of tests is about, by its name."""
    return re.sub(r"^test_|_comfyui$", "", file).replace("_", " ")


def tables(runs: Mapping[str, Run]) -> str:
    """Return the tables, and what failed and was skipped, as Markdown."""
    lines = [_row("", *runs), _row(*["---"] * (len(runs) + 1))]
    lines += [_row(name, *(run.versions.get(name, "?") for run in runs.values())) for name in VERSIONS]
    lines += [_row("day", *(run.day for run in runs.values()))]
    for kind in ("passed", "failed", "skipped"):
        lines.append(_row(f"**{kind}**", *(str(run.total(kind)) for run in runs.values())))
    for name in sorted({name for run in runs.values() for name in run.areas}):
        lines.append(_row(name, *(_cell(run.areas.get(name)) for run in runs.values())))
    for label, run in runs.items():
        lines += _listed(f"Failed on {label}", run.failed)
        lines += _listed(f"Skipped on {label}", [f"{reason} ({count})" for reason, count in run.skipped.items()])
    return "\n".join(lines)


def _cell(counts: Counter[str] | None) -> str:
    if counts is None:
        return "not run"
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: item[0]))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _listed(title: str, items: Iterable[str]) -> list[str]:
    found = [f"- {item}" for item in items]
    return ["", f"{title}:", "", *found] if found else []


def write(page: Path, runs: Mapping[str, Run]) -> None:
    """Put the tables of some runs into a page, between its two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page} has no lines {BEGIN} and {END} for the tables")
    page.write_text(f"{before}{BEGIN}\n\n{tables(runs)}\n\n{END}{after}")


def main(*given: str) -> None:
    """Read `LABEL=FILE` arguments and write the page."""
    runs: dict[str, Run] = {}
    for one in given:
        label, _, file = one.rpartition("=")
        runs.setdefault(label, Run()).add(Path(file))
    write(PAGE, runs)


if __name__ == "__main__":
    main(*sys.argv[1:])
