"""A line on a terminal that says what is done, and for how long, while a benchmark has nothing to print."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

EVERY = 1.0  # seconds
CLEARED = "\r\x1b[K"


class Progress:
    """Say every second on a terminal what is done; elsewhere nothing but the lines that are printed."""

    def __init__(self, doing: str) -> None:
        self.doing, self.began = doing, time.monotonic()
        self._shown, self._ended, self._lock = sys.stderr.isatty(), threading.Event(), threading.Lock()

    def __enter__(self) -> Progress:
        if self._shown:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with self._lock:
            self._show("")

    def print(self, line: str) -> None:
        """Print a line in the place of what was said last."""
        with self._lock:
            self._show("")
            print(line, flush=True)

    def _tick(self) -> None:
        while not self._ended.wait(EVERY):
            with self._lock:
                if not self._ended.is_set():
                    self._show(f"[{time.monotonic() - self.began:6.0f} s] {self.doing}")

    def _show(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(CLEARED + text)
            sys.stderr.flush()
