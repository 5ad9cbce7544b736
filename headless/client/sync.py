"""The client without asyncio: the same one, in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..engine.workflow import Prompt
from .address import DEFAULT
from .aio import AsyncClient
from .events import Event
from .job import Result

T = TypeVar("T")


class Client:
    """A client of one server; see AsyncClient. Close it, or use it in a `with`."""

    def __init__(
        self,
        url: str = DEFAULT,
        timeout: float = 30.0,
        patience: float = 60.0,
        headers: Mapping[str, str] | None = None,
        insecure: bool = False,
    ) -> None:
        self._client = AsyncClient(url, timeout, patience, headers, insecure)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Return the address of the server."""
        return self._client.url

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop what runs in other threads, close the connections and end the thread."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(_stopped(), self._loop).result()
            self._do(self._client.close())
            self._do(self._loop.shutdown_asyncgens())  # an answer that was not read to its end is one
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C too: the work stops what it has begun
            if not future.done() and future.cancel():
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    asyncio.run_coroutine_threadsafe(_settled(), self._loop).result(10)
            raise

    def object_info(self) -> dict[str, Any]:
        """Return every node that the server has."""
        return self._do(self._client.object_info())

    def system_stats(self) -> dict[str, Any]:
        """Return devices, memory and versions."""
        return self._do(self._client.system_stats())

    def model_sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each model of a folder such as `checkpoints`; nothing where the server has no such."""
        return self._do(self._client.model_sizes(folder))

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return what the server remembers of a job that is over."""
        return self._do(self._client.history(prompt_id))

    def position(self, prompt_id: str) -> int | None:
        """Return how many jobs are before a job, 0 where it runs, None where it is not in the queue."""
        return self._do(self._client.position(prompt_id))

    def interrupt(self, prompt_id: str) -> None:
        """Stop a job: take it from the queue, and interrupt it if it runs."""
        self._do(self._client.interrupt(prompt_id))

    def free(self, models: bool = True) -> None:
        """Let the server free memory."""
        self._do(self._client.free(models))

    def upload(self, file: Path, name: str | None = None) -> str:
        """Put a file into the server's input folder and return its name there; see AsyncClient."""
        return self._do(self._client.upload(file, name))

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """Return the bytes of a file that a job made."""
        return self._do(self._client.fetch(entry))

    def submit(self, prompt: Prompt, prompt_id: str | None = None) -> str:
        """Queue a workflow and return its id.

        Raises PromptError when the server refuses it.
        """
        return self._do(self._client.submit(prompt, prompt_id))

    def run(self, prompt: Prompt, on_event: Callable[[Event], None] | None = None) -> Result:
        """Queue a workflow, wait for its end and return what came of it; `on_event` is called in another thread.

        Raises PromptError, JobFailed, JobInterrupted, JobLost, ServerUnreachable. Ctrl-C stops the job.
        """
        return self._do(self._client.run(prompt, on_event))


async def _settled() -> None:
    """Let cancelled work come to its end."""
    await asyncio.gather(*_others(), return_exceptions=True)


async def _stopped() -> None:
    """Cancel all work and let it come to its end."""
    for task in _others():
        task.cancel()
    await _settled()


def _others() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
