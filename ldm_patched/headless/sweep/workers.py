"""Cells on one or several runners: each takes the next, and gives back what a lost one leaves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from ..errors import FAILED, Failure
from .cells import Cell
from .runner import Outcome, Runner, WorkerLost
from .store import Store

Told = Callable[[Cell, Outcome], None]


def run_all(waiting: Sequence[Cell], runners: Sequence[Runner], store: Store, told: Told) -> None:
    """Run cells; one runner works in this thread, several in threads of their own.

    Raises Failure when every runner is lost.
    """
    if len(runners) == 1:
        for cell in waiting:
            try:
                _run(cell, runners[0], store, told)
            except WorkerLost as error:
                raise Failure(f"{error}; start again to go on", FAILED) from None
        return
    jobs: queue.Queue[Cell] = queue.Queue()
    for cell in waiting:
        jobs.put(cell)
    shared = _Shared(jobs, len(waiting), store, told)
    threads = [threading.Thread(target=shared.work, args=(runner,), daemon=True) for runner in runners]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and shared.left:
        for thread in threads:
            thread.join(0.2)
    if shared.failure is not None:
        raise shared.failure
    if shared.left:
        raise Failure(f"every worker is lost, the last by: {shared.reason}; start again to go on", FAILED)


def _run(cell: Cell, runner: Runner, store: Store, told: Told) -> None:
    outcome = runner.run(cell.prompt, store.place(cell))
    store.keep(cell, outcome, runner.name)
    told(cell, outcome)


class _Shared:
    """What the threads of the runners share."""

    def __init__(self, jobs: queue.Queue[Cell], left: int, store: Store, told: Told) -> None:
        self.jobs, self.left, self.store, self.told = jobs, left, store, told
        self.lock, self.reason = threading.Lock(), ""
        self.failure: BaseException | None = None

    def work(self, runner: Runner) -> None:
        """Run cells until none is left, or this runner is lost."""
        while self.left and self.failure is None:
            try:
                cell = self.jobs.get(timeout=0.2)
            except queue.Empty:
                continue  # another runner may yet give one back
            try:
                outcome = runner.run(cell.prompt, self.store.place(cell))
                with self.lock:
                    self.store.keep(cell, outcome, runner.name)
                    self.told(cell, outcome)
                    self.left -= 1
            except WorkerLost as error:
                self.reason = str(error)
                self.jobs.put(cell)
                return
            except BaseException as error:
                self.failure = error
                return
