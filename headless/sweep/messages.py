"""Who is told of each finished cell: a command, an address on the web, and the lines of a log."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from ..engine.errors import Failure
from ..engine.progress import has_terminal
from ..engine.workflow import one_line, short
from .cells import Cell, named
from .runner import Outcome

TRIES, PAUSE = 3, 1.0  # of a webhook, and seconds between two
LONGEST, ANSWER = 60.0, 10.0  # seconds that a command may take, and a webhook
PATIENCE = 30.0  # seconds at the end for what waits to be told
EVERY = 10.0  # seconds between two lines of a log


class Messages:
    """Tells a command and a webhook of cells, in the background and in their order; neither can fail a sweep.

    Args:
        folder: of the sweep, as it was asked for.
    """

    def __init__(self, command: str, webhook: str, folder: str) -> None:
        self.command, self.webhook, self.folder = _split(command), _checked(webhook), folder
        self.waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.thread = threading.Thread(target=self._work, daemon=True)
        if self.command or self.webhook:
            self.thread.start()

    def cell(self, cell: Cell, outcome: Outcome, done: int, total: int) -> None:
        """Tell of a cell."""
        about = {"event": "cell", "cell": cell.id, "choice": cell.choice, **cell.role, **outcome.plain()}
        about["images"] = [f"cells/{cell.id}/{name}" for name in outcome.images]
        self._tell({**about, "done": done, "total": total, "folder": self.folder})

    def end(self, done: int, total: int, failed: int) -> None:
        """Tell of the end, and wait a while until everything is told."""
        self._tell({"event": "end", "done": done, "total": total, "failed": failed, "folder": self.folder})
        if self.thread.is_alive():
            self.waiting.put(None)
            self.thread.join(PATIENCE)

    def _tell(self, about: dict[str, Any]) -> None:
        if self.thread.is_alive():
            self.waiting.put(about)

    def _work(self) -> None:
        while (about := self.waiting.get()) is not None:
            data = json.dumps(about).encode()
            if self.command and about["event"] == "cell":
                _safely("--on-cell", _said, self.command, about, data)
            if self.webhook:
                _safely("--webhook", _posted, self.webhook, data)


def _safely(option: str, tell: Callable[..., None], *arguments: Any) -> None:
    """Tell, and say what goes wrong: the cells that come later are told of all the same."""
    try:
        tell(*arguments)
    except Exception as error:  # without the address, which may hold a secret
        logging.warning("%s: it was not told of a cell: %s", option, one_line(short(str(error) or repr(error))))


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise Failure(f"--on-cell {short(command)}: {error}") from None


def _checked(address: str) -> str:
    """Return an address that can be asked. Raises Failure."""
    if not address:
        return address
    how = ""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
        if parts.scheme not in ("http", "https"):
            how = "write an address that begins with http:// or https://"
        elif not host:
            how = "it names no server; write http://SERVER/..."
        elif "@" in parts.netloc:
            how = "a name and a password before the server are not sent; leave them out"
        elif re.search(r"[\x00-\x20\x7f]", address) or not f"{parts.path}{parts.query}".isascii():
            how = "write spaces and letters beyond ASCII as %20 and the like"
    except ValueError as error:
        how = str(error)
    if how:
        raise Failure(f"--webhook {one_line(short(address))}: {how}")
    return address


def _said(command: list[str], about: dict[str, Any], data: bytes) -> None:
    own = {"PATCHBAY_CELL": about["cell"], "PATCHBAY_FOLDER": about["folder"], "PATCHBAY_ERROR": about["error"]}
    done = subprocess.run(
        command,
        input=data,
        env={**os.environ, **own},
        timeout=LONGEST,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.stdout:  # not among the results, which go to standard output
        print(done.stdout.decode(errors="replace"), end="", file=sys.stderr, flush=True)
    if done.returncode:
        logging.warning("--on-cell: %s ended in %d", command[0], done.returncode)


def _posted(address: str, data: bytes) -> None:
    for left in reversed(range(TRIES)):
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER):  # noqa: S310 - http and https only, checked above
                return
        except (OSError, ValueError, HTTPException):
            if not left:
                raise
            time.sleep(PAUSE)


# What is seen meanwhile


class Progress:
    """How far a sweep is: a bar in a terminal, else a line now and then.

    Args:
        clock: gives seconds.
    """

    def __init__(self, done: int, total: int, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.done, self.total, self.failed, self.quiet = done, total, 0, quiet
        self.clock, self.began, self.first = clock, clock(), done
        self.next = self.began
        self.bar = tqdm(total=total, initial=done, unit="cell") if has_terminal() and not quiet else None

    def cell(self, cell: Cell, outcome: Outcome) -> None:
        """Tell of a cell."""
        self.done += 1
        if outcome.error:
            self.failed += 1
            self._write(one_line(f"{named(cell.choice)}: {outcome.error}"))
        if self.bar is not None:
            self.bar.update()
        elif not self.quiet and (self.clock() >= self.next or self.done == self.total):
            self._write(self.line())
            self.next = self.clock() + EVERY

    def line(self) -> str:
        """Return how far it is, in words."""
        pace = (self.clock() - self.began) / max(1, self.done - self.first)
        failed = f", {self.failed} failed" if self.failed else ""
        left = f", about {_span(pace * (self.total - self.done))} left" if self.done < self.total else ""
        return f"{self.done} of {self.total} cells{failed}, {pace:.2f} s a cell{left}"

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()

    def _write(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
