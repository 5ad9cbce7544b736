"""The exit codes of the commands, and the failure that a command ends with."""

from __future__ import annotations

USER_ERROR, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 143


class Failure(RuntimeError):
    """A command that cannot go on: the text says why and what to do, `code` is its exit code."""

    def __init__(self, text: str, code: int = USER_ERROR, kind: str = "failed") -> None:
        self.code, self.kind = code, kind
        super().__init__(text)


class NodeError(RuntimeError):
    """A node that failed; the text names it and the cause is chained."""
