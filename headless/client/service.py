"""Services that take workflows as jobs: what each of them answers, and how a job is followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from ..engine.workflow import Prompt
from .job import ServerUnreachable

QUEUED, RUNNING, DONE, ENDED, UNKNOWN = "queued", "running", "done", "ended", "unknown"
MISSES = 3  # times that a service may not know a job: it may be on its way from one list to another
FIRST, LAST = 0.25, 3.0  # seconds between two questions: at least, at most
SHARE = 0.05  # of the time so far, between: times by our own clock are that exact
PATIENCE = 60.0  # seconds that a service may be unreachable during a job
PAUSE = 0.5  # seconds between two tries
NOT_TAKEN = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)  # the request never left

T = TypeVar("T")


@dataclass(frozen=True)
class State:
    """Where a job is.

    Args:
        status: QUEUED, RUNNING, DONE, ENDED (without a result) or UNKNOWN to the service.
        files: of a job that is done: filename, type (output or temp) and kind (image, ...) of each, and what `fetch`
            finds it by.
        error: why it ended.
        seconds: how long it ran, as the service measured it.
        waited: seconds before that, as the service measured it.
        worker: who ran it, where the service says so.
    """

    status: str
    files: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    seconds: float | None = None
    waited: float | None = None
    worker: str = ""


class JobUnfinished(RuntimeError):
    """A job that brought nothing: it failed, was stopped, took too long or was lost. The text says which."""

    def __init__(self, text: str, state: State | None = None) -> None:
        self.state = state
        super().__init__(text)


class NotAnswered(JobUnfinished):
    """Nobody knows whether a service took a job, so it is not sent again: it may run there."""


class Service(Protocol):
    """A place that takes workflows as jobs; `url` may be shown."""

    url: str

    def upload(self, file: Path, name: str) -> Any:
        """Return what stands for a file of the input folder in a workflow."""
        ...

    def submit(self, prompt: Prompt, seconds: float) -> str:
        """Queue a workflow that may take so many seconds, once whatever happens, and return the id of its job.

        Raises PromptError for one that is refused, NotAnswered, and ServerUnreachable where it was not taken.
        """
        ...

    def state(self, job: str) -> State:
        """Return where a job is. Raises ServerUnreachable."""
        ...

    def cancel(self, job: str) -> None:
        """Stop a job. Raises ServerUnreachable."""
        ...

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """Return the bytes of a file of a state. Raises ServerUnreachable."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def follow(service: Service, job: str, seconds: float, told: Callable[[State], None] = lambda state: None) -> State:
    """Wait for a job and return its last state, with the seconds by our own clock where the service has none.

    Whatever ends the waiting, Ctrl-C too, stops the job. Raises JobUnfinished and ServerUnreachable.
    """
    begin = time.monotonic()
    misses, running = 0, 0.0
    try:
        while True:
            state = patiently(lambda: service.state(job))
            told(state)
            misses = misses + 1 if state.status == UNKNOWN else 0
            if state.status == RUNNING:
                running = running or time.monotonic()
            if state.status == DONE:
                return _timed(state, begin, running or begin)
            if state.status == ENDED:
                raise JobUnfinished(state.error, state)
            if misses >= MISSES:
                raise JobUnfinished(f"{service.url} knows no job {job} any more")
            spent = time.monotonic() - begin
            if spent > seconds:
                raise TimeoutError
            time.sleep(min(max(FIRST, SHARE * spent), LAST))
    except TimeoutError:
        _stop(service, job)
        raise JobUnfinished(
            f"the job took longer than {seconds:g} s and was stopped; give it more by --timeout"
        ) from None
    except KeyboardInterrupt:
        _stop(service, job)
        raise


def _timed(state: State, begin: float, running: float) -> State:
    if state.seconds is not None:
        return state
    return State(state.status, state.files, "", time.monotonic() - running, running - begin, state.worker)


def _stop(service: Service, job: str) -> None:
    try:
        service.cancel(job)
    except ServerUnreachable:  # nothing is left to stop
        return


def patiently(ask: Callable[[], T]) -> T:
    """Ask what may be asked twice until it is answered, as long as PATIENCE. Raises ServerUnreachable."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except ServerUnreachable as error:
            if error.final or time.monotonic() > end:
                raise
        time.sleep(PAUSE)
