"""Cells on a ComfyUI server."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

from ..engine.workflow import Prompt, PromptError
from .measure import Times, Watch
from .memory import need
from .runner import Outcome, WorkerLost, backends_of, pictures


class Remote:
    """Runs cells on a server: images of the folder `input` go there, results come back."""

    def __init__(self, url: str, input: Path) -> None:
        from ..client import Client

        self.client, self.name, self.input = Client(url), url, input
        self.memory = self._begin()

    def close(self) -> None:
        """Close the connection; a job that runs is stopped."""
        self.client.close()

    def need(self, prompt: Prompt) -> int:
        """Return the bytes of the models of a workflow, as far as the server has them."""
        return need(prompt, lambda kind, name: self._sizes(kind).get(name, 0))

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a workflow on the server and fetch its images."""
        from ..client import JobFailed, JobInterrupted, JobLost, ServerUnreachable, Step
        from ..pages.server import download, upload

        times, prompt = Times(), copy.deepcopy(prompt)
        try:
            upload(self.client, prompt, self._infos, self.input)
            with Watch(self._used) as watch:
                result = self.client.run(
                    prompt, lambda event: times.step(event.value, event.total) if isinstance(event, Step) else None
                )
            paths = download(self.client, pictures(result.outputs), folder)
            images = [path.relative_to(folder.resolve()).as_posix() for path in paths]
        except (JobFailed, JobInterrupted, PromptError) as error:
            return Outcome(error=str(error))
        except (JobLost, ServerUnreachable) as error:
            raise WorkerLost(str(error)) from error
        seconds, backends = sum(result.seconds.values()), backends_of(result.outputs)
        return Outcome(images, seconds, times.median(), watch.most, "device, with all that uses it", backends)

    def _begin(self) -> int | None:
        """Return the memory of the device; what the server has cached would not be measured, so it forgets it."""
        from ..client import ServerUnreachable

        try:
            self.client.free(models=False)
            return self._device()["vram_total"]
        except ServerUnreachable:
            return None  # the first cell tells of it

    def _used(self) -> int:
        device = self._device()
        return device["vram_total"] - device["vram_free"]

    def _device(self) -> dict[str, Any]:
        return self.client.system_stats()["devices"][0]

    @functools.cached_property
    def _infos(self) -> dict[str, Any]:
        return self.client.object_info()

    @functools.cache  # noqa: B019 - a runner lives as long as its sweep
    def _sizes(self, kind: str) -> dict[str, int]:
        from ..client import ServerUnreachable

        try:
            return self.client.model_sizes(kind)
        except ServerUnreachable:
            return {}
