"""Cells in this process."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..api.folders import Folders
from ..engine.errors import NodeError
from ..engine.workflow import Prompt
from .measure import Peak, Times
from .runner import Outcome, backends_of, pictures


class Embedded:
    """Runs cells on the embedded host; models and whatever a cell shares with the one before stay loaded."""

    name = "embedded"
    memory: int | None = None

    def __init__(self, folders: Folders, unet_dtype: Any = None, cache: Path | None = None) -> None:
        from ..api.session import Session
        from ..engine.api_graph import Executor
        from ..engine.catalog import catalog

        self.folders, self.times, self.fresh = folders, Times(), True
        self.executor = Executor(catalog(), Session(folders, self.times.step, unet_dtype), cache)

    def need(self, prompt: Prompt) -> int:
        """Return nothing: there is no other worker to choose."""
        return 0

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow; Ctrl-C ends it."""
        warm_up = self.fresh
        folder.mkdir(parents=True, exist_ok=True)
        own = replace(self.folders, output=folder, temp=folder)
        self.executor.session = replace(self.executor.session, folders=own)
        self.times.clear()
        peak = Peak()
        begin = time.perf_counter()
        try:
            ui = self.executor.run(prompt).ui
        except (NodeError, ValueError) as error:  # a file may have gone since the cells were checked
            return Outcome(error=str(error), seconds=time.perf_counter() - begin, warm_up=warm_up)
        seconds, self.fresh = time.perf_counter() - begin, False
        images = ["/".join(filter(None, (entry["subfolder"], entry["filename"]))) for entry in pictures(ui)]
        bytes, what = peak.read()
        return Outcome(images, seconds, self.times.median(), bytes, what, backends_of(ui), warm_up=warm_up)
