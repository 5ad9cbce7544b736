"""The progress of a run on stderr."""

from __future__ import annotations

import sys

from tqdm import tqdm


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
            interval = 0.1 if sys.stderr.isatty() else 5.0
            self._bar = tqdm(total=total, desc=self.name, unit="step", disable=self.quiet, mininterval=interval)
        self._bar.update(value - self._bar.n)

    def close(self) -> None:
        """End the bar of the current node."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
