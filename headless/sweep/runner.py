"""What runs a cell, and what comes of it."""

from __future__ import annotations

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
        backends: calls by attention function, where the workflow has a Patch Report.
    """

    images: list[str] = field(default_factory=list)
    seconds: float = 0.0
    step_seconds: float | None = None
    peak_bytes: int | None = None
    peak_of: str = ""
    backends: dict[str, int] = field(default_factory=dict)
    error: str = ""

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


def pictures(outputs: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return the files that nodes saved, or else those they previewed: filename, subfolder and type of each."""
    shown = [entry for output in outputs.values() for entry in output.get("images") or [] if "filename" in entry]
    return [entry for entry in shown if entry.get("type") == "output"] or shown


def backends_of(outputs: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return the calls by attention function of the reports among the outputs."""
    found: dict[str, int] = {}
    for shown in outputs.values():
        for row in shown.get("table") or []:
            if isinstance(row, dict) and "function" in row and "calls" in row:
                found[row["function"]] = found.get(row["function"], 0) + row["calls"]
    return found
