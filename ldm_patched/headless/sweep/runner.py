"""What runs a cell: the embedded host here, or a ComfyUI server."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..folders import Folders
from ..prompt import Prompt


class WorkerLost(ConnectionError):
    """The worker cannot run anything any more; another one may run the cell."""


@dataclass
class Outcome:
    """What came of a cell.

    Args:
        images: file names in the folder of the cell.
        seconds: of all nodes that ran; those taken from the cell before are not in it.
        step_seconds: the median time between two steps of the samplers.
        peak_bytes: the most memory during the cell, of the process or, on a GPU, of its tensors.
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
    """Runs one cell after the other."""

    name: str

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow and put its pictures into a folder.

        A node that fails is an outcome with an error. Raises WorkerLost when this runner is of no more use.
        """
        ...


class Embedded:
    """Runs cells in this process; models and whatever a cell shares with the one before stay loaded."""

    name = "embedded"

    def __init__(self, folders: Folders, unet_dtype: Any = None) -> None:
        from ..api_graph import Executor
        from ..catalog import catalog
        from ..session import Session

        self.folders, self.times = folders, Times()
        self.executor = Executor(catalog(), Session(folders, self.times.step, unet_dtype))

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow; Ctrl-C ends it."""
        from ..api_graph import NodeError

        folder.mkdir(parents=True, exist_ok=True)
        self.executor.session = replace(self.executor.session, folders=replace(self.folders, output=folder))
        self.times.clear()
        peak = Peak()
        begin = time.perf_counter()
        try:
            ui = self.executor.run(prompt).ui
        except NodeError as error:
            return Outcome(error=str(error), seconds=time.perf_counter() - begin)
        seconds = time.perf_counter() - begin
        entries = [entry for shown in ui.values() for entry in shown.get("images", []) if entry["type"] == "output"]
        images = ["/".join(filter(None, (entry["subfolder"], entry["filename"]))) for entry in entries]
        bytes, what = peak.read()
        return Outcome(images, seconds, self.times.median(), bytes, what, backends_of(ui))


class Remote:
    """Runs cells on a ComfyUI server."""

    def __init__(self, url: str, infos: Any, input: Path) -> None:
        from ..client import Client

        self.client, self.name, self.infos, self.input = Client(url), url, infos, input

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow on the server and fetch its pictures."""
        from ..client import JobFailed, JobInterrupted, JobLost, ServerUnreachable, Step
        from ..queue import download, upload

        times = Times()
        begin = time.perf_counter()
        try:
            upload(self.client, prompt, self.infos, self.input)
            result = self.client.run(prompt, lambda e: times.step(e.value, e.total) if isinstance(e, Step) else None)
            seconds = time.perf_counter() - begin
            images = [path.relative_to(folder.resolve()).as_posix() for path in download(self.client, result, folder)]
        except (JobFailed, JobInterrupted) as error:
            return Outcome(error=str(error), seconds=time.perf_counter() - begin)
        except (JobLost, ServerUnreachable) as error:
            raise WorkerLost(str(error)) from error
        return Outcome(images, seconds, times.median(), backends=backends_of(result.outputs))


def backends_of(outputs: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return the calls by attention function of the reports among the outputs."""
    found: dict[str, int] = {}
    for shown in outputs.values():
        for row in shown.get("table") or []:
            if isinstance(row, dict) and "function" in row and "calls" in row:
                found[row["function"]] = found.get(row["function"], 0) + row["calls"]
    return found


class Times:
    """The moments of steps."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.last: tuple[int, float] | None = None

    def clear(self) -> None:
        """Forget all."""
        self.pauses, self.last = [], None

    def step(self, value: int, total: int) -> None:
        """Note a step; servers may leave some out."""
        now = time.perf_counter()
        if self.last is not None and value > self.last[0]:
            self.pauses.append((now - self.last[1]) / (value - self.last[0]))
        self.last = (value, now)

    def median(self) -> float | None:
        """Return the seconds of a step."""
        return statistics.median(self.pauses) if self.pauses else None


class Peak:
    """The most memory since it was made."""

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda if torch.cuda.is_available() else None
        self.known = self.cuda is not None
        if self.cuda is not None:
            self.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from now
                self.known = True
            except OSError:
                self.known = False

    def read(self) -> tuple[int | None, str]:
        """Return bytes and what they are of."""
        if not self.known:
            return None, ""
        if self.cuda is not None:
            return self.cuda.max_memory_allocated(), "GPU tensors"
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), "process"
