"""ComfyUI servers of a Ray cluster, each behind an actor that may live on any node that reaches it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from ..engine.workflow import Prompt
from ..pages.server import Access
from .on_ray import unpack
from .remote import Remote
from .runner import Outcome, WorkerLost

PATIENCE = 120.0  # seconds for an actor to start again


class ServerActor:
    """Runs cells on a server; it lives on the cluster."""

    def __init__(self, url: str, input: Path, access: Access) -> None:
        self.remote = Remote(url, input, access)

    def name(self) -> str:
        """Return the address of the server, as far as it may be shown."""
        return self.remote.name

    def memory(self) -> int | None:
        """Return the bytes of the server's device."""
        return self.remote.memory

    def need(self, prompt: Prompt) -> int:
        """Return the bytes of the models of a workflow."""
        return self.remote.need(prompt)

    def run(self, prompt: Prompt) -> tuple[Outcome, dict[str, bytes]]:
        """Run a cell; return the outcome and its images by name."""
        with tempfile.TemporaryDirectory() as folder:
            outcome = self.remote.run(prompt, Path(folder))
            return outcome, {name: (Path(folder) / name).read_bytes() for name in outcome.images}

    def close(self) -> None:
        """Stop what runs."""
        self.remote.close()


class RayServer:
    """The runner of a server in the driver; an actor that dies with its node starts again on another."""

    def __init__(self, ray: Any, url: str, input: Path, access: Access) -> None:
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_concurrency=2, scheduling_strategy="SPREAD")(ServerActor)
        self.ray, self.actor = ray, actor.remote(url, input.resolve(), access)
        self.name: str = ray.get(self.actor.name.remote())
        self.memory: int | None = ray.get(self.actor.memory.remote())

    def need(self, prompt: Prompt) -> int:
        """Return the bytes of the models of a workflow."""
        return self.ray.get(self.actor.need.remote(prompt))

    def run(self, prompt: Prompt, folder: Path) -> Outcome:
        """Run a cell on the server; again when the actor dies meanwhile."""
        end = 0.0
        while True:
            try:
                outcome, files = self.ray.get(self.actor.run.remote(prompt))
            except self.ray.exceptions.RayActorError as error:
                end = end or time.monotonic() + PATIENCE
                if time.monotonic() > end:
                    raise WorkerLost(f"the actor of {self.name} died and does not come back: {error}") from None
                time.sleep(1)
            except WorkerLost as error:  # with the text of the actor's whole stack
                raise WorkerLost(str(getattr(error, "cause", error))) from None
            else:
                unpack(files, folder)
                return outcome

    def close(self) -> None:
        """Stop what runs, and the actor."""
        with contextlib.suppress(self.ray.exceptions.RayError, TimeoutError):  # it is gone already
            self.ray.get(self.actor.close.remote(), timeout=10)
        self.ray.kill(self.actor)
