"""Cells on a ComfyUI server."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.workflow import Prompt, PromptError
from ..pages.node_infos import node_infos
from ..pages.server import NOBODY, Access, download, upload
from .measure import Times, Watch
from .memory import need
from .runner import Outcome, WorkerLost, backends_of, pictures

TRIES = 2  # of a cell whose job the server lost with all others


class Remote:
    """Runs cells on a server: images of the folder `input` go there, results come back."""

    def __init__(self, url: str, input: Path, access: Access = NOBODY) -> None:
        self.client = access.client(url)
        self.name, self.input = self.client.url, input
        self.uploaded: dict[Any, str] = {}
        self.fresh = True
        self.memory = self._begin()

    def close(self) -> None:
        """Close the connection; a job that runs is stopped."""
        self.client.close()

    def need(self, prompt: Prompt) -> int:
        """Return the bytes of the models of a workflow, as far as the server has them."""
        return need(prompt, lambda kind, name: self._sizes(kind).get(name, 0))

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow on the server and fetch its images.

        What goes wrong with the cell alone is its error; the server is lost where it answers nothing else either.
        """
        from ..client import JobLost, ServerUnreachable

        for left in reversed(range(TRIES)):
            try:
                return self._run(prompt, folder)
            except (JobLost, ServerUnreachable) as error:
                if not self._answers():
                    raise WorkerLost(str(error)) from error
                if not left or not getattr(error, "restarted", False):
                    return Outcome(error=str(error))
                self.fresh = True
        raise AssertionError

    def _run(self, prompt: Prompt, folder: Path) -> Outcome:
        from ..client import JobFailed, JobInterrupted, Step

        times, prompt = Times(), copy.deepcopy(prompt)
        warm_up = self.fresh
        try:
            upload(self.client, prompt, self._infos, self.input, self.uploaded)
            with Watch(self._used) as watch:
                result = self.client.run(
                    prompt, lambda event: times.step(event.value, event.total) if isinstance(event, Step) else None
                )
            paths = download(self.client, pictures(result.outputs), folder)
            images = [path.relative_to(folder.resolve()).as_posix() for path in paths]
        except (JobFailed, JobInterrupted, PromptError, Failure) as error:
            return Outcome(error=str(error), warm_up=warm_up)
        seconds, backends = sum(result.seconds.values()), backends_of(result.outputs)
        self.fresh = False
        what = "device, with all that uses it"
        return Outcome(images, seconds, times.median(), watch.most, what, backends, warm_up=warm_up)

    def _begin(self) -> int | None:
        """Return the memory of the device; what the server has cached would not be measured, so it forgets it."""
        from ..client import ServerUnreachable

        try:
            self.client.free(models=False)
            return self._device("vram_total")
        except ServerUnreachable:
            return None  # the first cell tells of it

    def _answers(self) -> bool:
        from ..client import ServerUnreachable

        try:
            return bool(self.client.system_stats())
        except ServerUnreachable:
            return False

    def _used(self) -> int:
        total, free = self._device("vram_total"), self._device("vram_free")
        return 0 if total is None or free is None else total - free

    def _device(self, what: str) -> int | None:
        """Return a number that the server tells of its first device."""
        devices = self.client.system_stats().get("devices")
        first = devices[0] if isinstance(devices, list) and devices else None
        value = first.get(what) if isinstance(first, dict) else None
        return value if isinstance(value, int) else None

    @functools.cached_property
    def _infos(self) -> dict[str, Any]:
        return dict(node_infos(self.client.object_info(), self.name))

    @functools.cache  # noqa: B019 - a runner lives as long as its sweep
    def _sizes(self, kind: str) -> dict[str, int]:
        from ..client import ServerUnreachable

        try:
            return self.client.model_sizes(kind)
        except ServerUnreachable:
            return {}
