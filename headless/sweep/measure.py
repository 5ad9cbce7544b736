"""Times and memory of a cell while it runs."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PAUSE = 0.25  # seconds between two looks at the memory of a server


class Times:
    """The moments of steps."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.last: tuple[int, float] | None = None

    def clear(self) -> None:
        """Forget all."""
        self.pauses, self.last = [], None

    def step(self, value: int, total: int) -> None:
        """Note a step; servers may leave some out."""
        now = time.perf_counter()
        if self.last is not None and value > self.last[0]:
            self.pauses.append((now - self.last[1]) / (value - self.last[0]))
        self.last = (value, now)

    def median(self) -> float | None:
        """Return the seconds of a step."""
        return statistics.median(self.pauses) if self.pauses else None


class Peak:
    """The most memory of this process, or of its tensors on a GPU, since it was made."""

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda if torch.cuda.is_available() else None
        self.known = self.cuda is not None
        if self.cuda is not None:
            self.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from now
                self.known = True
            except OSError:
                self.known = False

    def read(self) -> tuple[int | None, str]:
        """Return bytes and what they are of."""
        if not self.known:
            return None, ""
        if self.cuda is not None:
            return self.cuda.max_memory_allocated(), "GPU tensors"
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), "process"


class Watch:
    """The most that `used` returned during a `with`; it is asked in a thread every `PAUSE` seconds."""

    def __init__(self, used: Callable[[], int]) -> None:
        self.used, self.most = used, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            try:
                self.most = max(self.most, self.used())
            except ConnectionError:  # the run itself tells of it
                return
            if self._over.wait(PAUSE):
                return
