"""Cells on services that take workflows as jobs: the Comfy API v2, and endpoints that speak as RunPod's do."""

from __future__ import annotations

import contextlib
import copy
import time
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.workflow import Prompt, PromptError
from ..pages.page_widgets import Infos
from ..pages.server import download, upload
from .runner import Outcome, WorkerLost

TIMEOUT = 3600.0  # seconds that a job may take, with its waiting
HOUR = 3600.0


class OnService:
    """Runs cells on a service: images of the folder `input` go there, results come back.

    Args:
        infos: the nodes, which tell what inputs are files.
        timeout: seconds that a job may take, with its waiting.
        price: what an hour of a worker costs, for `cost`.
    """

    memory: int | None = None

    def __init__(
        self, service: Any, infos: Infos, input: Path, timeout: float = TIMEOUT, price: float | None = None
    ) -> None:
        self.service, self.infos, self.input = service, infos, input
        self.timeout, self.price = timeout, price
        self.name: str = service.url
        self.uploaded: dict[Any, Any] = {}
        self.warm: set[str] = set()  # workers that had a cell
        self.job = ""  # what runs

    def close(self) -> None:
        """Stop what runs in another thread, and close the connections."""
        from ..client.job import ServerUnreachable

        if self.job:
            with contextlib.suppress(ServerUnreachable):  # nothing is left to stop
                self.service.cancel(self.job)
        self.service.close()

    def need(self, prompt: Prompt) -> int:
        """Return nothing: the service chooses its workers."""
        return 0

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow as a job and fetch its images.

        What goes wrong with the cell alone is its error; Ctrl-C stops the job. Raises WorkerLost.
        """
        from ..client.job import ServerUnreachable
        from ..client.service import JobUnfinished, follow

        begin = time.monotonic()
        prompt = copy.deepcopy(prompt)
        try:
            upload(self.service, prompt, self.infos, self.input, self.uploaded)
            self.job = self.service.submit(prompt, self.timeout)
            state = follow(self.service, self.job, self.timeout)
        except ServerUnreachable as error:
            if not self.job:
                raise WorkerLost(str(error)) from error
            why = f"{error}; the job {self.job} may run there, so no other worker gets it"
            return self._failed(why, None, time.monotonic() - begin)
        except (JobUnfinished, PromptError, Failure) as error:
            self.uploaded.clear()  # the service may have forgotten what it was sent
            return self._failed(str(error), getattr(error, "state", None), time.monotonic() - begin)
        finally:
            self.job = ""
        return self._outcome(state, folder)

    def _failed(self, error: str, state: Any, seconds: float) -> Outcome:
        """Return what came of a job without a result; what it ran before that costs too."""
        if state is None or state.seconds is None:
            return Outcome(error=error, seconds=seconds)
        return Outcome(error=error, seconds=state.seconds, waited_seconds=state.waited, cost=self.cost(state))

    def _outcome(self, state: Any, folder: Path) -> Outcome:
        from ..client.job import ServerUnreachable

        images = [entry for entry in state.files if entry["kind"] == "image"]
        saved = [entry for entry in images if entry["type"] == "output"] or images
        warm_up, error = state.worker not in self.warm, ""
        self.warm.add(state.worker)
        paths: list[Path] = []
        try:
            paths += download(self.service, saved, folder)
        except (ServerUnreachable, Failure) as problem:  # of a picture; the service runs
            error = str(problem)
        seconds = state.seconds or 0.0
        names = [path.relative_to(folder.resolve()).as_posix() for path in paths]
        cost = self.cost(state)
        return Outcome(names, seconds, error=error, warm_up=warm_up, waited_seconds=state.waited, cost=cost)

    def cost(self, state: Any) -> float | None:
        """Return what the seconds of a job cost; None without a price."""
        return None if self.price is None or state.seconds is None else state.seconds * self.price / HOUR
