"""Cells on one or several runners: each takes the next it has memory for; what a lost one leaves runs on another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..engine.errors import FAILED, Failure
from ..engine.tracing import span
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
    shared = _Shared(waiting, runners, store, told)
    threads = [threading.Thread(target=shared.work, args=(runner,), daemon=True) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.2)
    finally:  # Ctrl-C: no thread takes another cell
        shared.stop = True
    if shared.failure is not None:
        raise shared.failure
    if shared.cells:
        raise Failure(f"every worker is lost, the last by: {shared.reason}; start again to go on", FAILED)


def _run(cell: Cell, runner: Runner, store: Store, told: Told) -> None:
    outcome = _traced(cell, runner, store)
    store.keep(cell, outcome, runner.name)
    told(cell, outcome)


def _traced(cell: Cell, runner: Runner, store: Store) -> Outcome:
    with span("patchbay.cell", cell=cell.id, worker=runner.name) as told:
        outcome = runner.run(cell.prompt, store.place(cell))
        told |= {"error": outcome.error, "images": len(outcome.images)}
        return outcome


class _Shared:
    """What the threads of the runners share."""

    def __init__(self, waiting: Sequence[Cell], runners: Sequence[Runner], store: Store, told: Told) -> None:
        self.cells, self.alive, self.running = list(waiting), list(runners), 0
        self.begun: set[int] = set()  # rounds
        self.store, self.told = store, told
        self.changed = threading.Condition()
        self.stop, self.reason = False, ""
        self.failure: BaseException | None = None

    def work(self, runner: Runner) -> None:
        """Run cells until none is left, or this runner is lost."""
        cell: Cell | None = None
        while (cell := self._take(runner, cell)) is not None:
            back = [cell]
            try:
                outcome = _traced(cell, runner, self.store)
                with self.changed:
                    self.store.keep(cell, outcome, runner.name)
                    self.told(cell, outcome)
                back = []
            except WorkerLost as error:
                self.reason = str(error)
                self.alive.remove(runner)
                return
            except BaseException as error:
                self.failure, self.stop = error, True
                return
            finally:
                with self.changed:
                    self.cells[:0] = back
                    self.running -= 1
                    self.changed.notify_all()

    def _take(self, runner: Runner, last: Cell | None) -> Cell | None:
        """Wait for a cell for a runner; None when it has nothing more to do."""
        with self.changed:
            while not self.stop and (self.cells or self.running):
                for cell in self._in_turn(last):
                    if self._fits(cell, runner):
                        self.running += 1
                        self.begun.add(cell.repeat)
                        self.cells.remove(cell)
                        return cell
                self.changed.wait(0.2)  # another runner may yet give one back
            return None

    def _in_turn(self, last: Cell | None) -> list[Cell]:
        """Return the cells as a runner should take them: first of the round of its last one, then of none begun."""
        own = None if last is None else last.repeat  # times are compared in a round, and runners are not equally fast
        return sorted(self.cells, key=lambda cell: (cell.repeat != own, cell.repeat in self.begun))

    def _fits(self, cell: Cell, runner: Runner) -> bool:
        """Return whether a runner has the memory for a cell, or no other has more."""
        if runner.memory is None or runner.need(cell.prompt) <= runner.memory:
            return True
        return all(other.memory is not None and other.memory <= runner.memory for other in self.alive)
