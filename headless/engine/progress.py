"""The progress of a run on stderr."""

from __future__ import annotations

import contextlib
import os
import sys

from tqdm import tqdm

PLAIN = {"mininterval": 5.0, "ncols": 80, "nrows": 24}  # of a bar where no terminal says its size


def has_terminal() -> bool:
    """Return whether stderr is a terminal in which a bar shows: those of some containers have 0 columns of 0 rows."""
    with contextlib.suppress(OSError):  # stderr of another kind
        return sys.stderr.isatty() and all(os.get_terminal_size(sys.stderr.fileno()))
    return False


class Progress:
    """The progress bar on stderr: the node that runs, its steps and the time left."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.name = ""
        self._bar: tqdm | None = None

    def node(self, name: str) -> None:
        """Say which node runs next."""
        self.close()
        self.name = name

    def step(self, value: int, total: int) -> None:
        """Move the bar of the current node."""
        if self._bar is None:
            look = {"mininterval": 0.1} if has_terminal() else PLAIN
            self._bar = tqdm(total=total, desc=self.name, unit="step", disable=self.quiet, **look)
        self._bar.update(value - self._bar.n)

    def close(self) -> None:
        """End the bar of the current node."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
