"""What runs a cell, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..engine.workflow import Prompt


class WorkerLost(ConnectionError):
    """The worker cannot run anything any more; another one may run the cell."""


@dataclass
class Outcome:
    """What came of a cell.

    Args:
        images: file names in the folder of the cell: those saved, or the previews where nothing is saved.
        seconds: of all nodes that ran; those taken from the cell before are not in it.
        step_seconds: the median time between two steps of the samplers.
        peak_bytes: the most memory during the cell, of what `peak_of` says.
        warm_up: whether it was the first cell of its worker, which loads and warms up what later ones find ready.
        backends: calls by attention function, where the workflow has a Patch Report.
        waited_seconds: before a service ran it.
        cost: of the seconds that a service ran it.
    """

    images: list[str] = field(default_factory=list)
    seconds: float = 0.0
    step_seconds: float | None = None
    peak_bytes: int | None = None
    peak_of: str = ""
    backends: dict[str, int] = field(default_factory=dict)
    error: str = ""
    warm_up: bool = False
    waited_seconds: float | None = None
    cost: float | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class Runner(Protocol):
    """Runs one cell after the other; `memory` are the bytes of its device, None where that does not matter."""

    name: str
    memory: int | None

    def need(self, prompt: Prompt) -> int:
        """Return the bytes of the models of a workflow."""
        ...

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow and put its images into a folder.

        A node that fails is an outcome with an error. Raises WorkerLost when this runner is of no more use.
        """
        ...


def pictures(outputs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the files that nodes saved, or else those they previewed: filename, subfolder and type of each."""
    lists = [output["images"] for output in outputs.values() if isinstance(output.get("images"), list)]
    entries = [entry for images in lists for entry in images if isinstance(entry, dict)]
    shown = [entry for entry in entries if isinstance(entry.get("filename"), str)]
    return [entry for entry in shown if entry.get("type") == "output"] or shown


def backends_of(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the calls by attention function of the reports among the outputs."""
    found: dict[str, int] = {}
    for shown in outputs.values():
        rows = shown.get("table")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and isinstance(row.get("function"), str) and isinstance(row.get("calls"), int):
                found[row["function"]] = found.get(row["function"], 0) + row["calls"]
    return found
