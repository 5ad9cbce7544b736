"""The exit codes of the commands, and the failure that a command ends with."""

from __future__ import annotations

import errno
import importlib.util

USER_ERROR, FAILED, DRIFTED, INTERRUPTED, TERMINATED = 2, 1, 3, 130, 143
# nobody's wrong input
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
EXTRAS = {
    "skimage": "sweep",
    "pyarrow": "sweep",
    "httpx": "client",
    "websockets": "client",
    "comfy_low": "sdk",
    "comfy_sdk": "sdk",
    "ray": "ray",
    "fsspec": "remote",
}


class Failure(RuntimeError):
    """A command that cannot go on: the text says why and what to do, `code` is its exit code."""

    def __init__(self, text: str, code: int = USER_ERROR, kind: str = "failed") -> None:
        self.code, self.kind = code, kind
        super().__init__(text)


class NodeError(RuntimeError):
    """A node that failed; the text names it and the cause is chained."""


def code_of(error: OSError) -> int:
    """Return the exit code of a place that cannot be used: whether another would do, or the machine has no room."""
    return FAILED if error.errno in MACHINE else USER_ERROR


def missing(module: str | None) -> str:
    """Return what to say of a package that is not installed: the extra that brings it."""
    return f'{module} is missing; pip install "attention-patchbay[{EXTRAS.get(str(module).split(".")[0], "headless")}]"'


def require(extra: str) -> None:
    """Raise Failure where a package of an extra is not installed, before any work is done."""
    for module in (module for module, brings in EXTRAS.items() if brings == extra):
        if importlib.util.find_spec(module) is None:
            raise Failure(missing(module), FAILED)
