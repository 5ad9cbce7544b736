"""Attention kernels of Hugging Face's hub, by its package `kernels`: which ones, fetched when asked, found again.

Nothing is fetched but by `fetch`. It locks the commit of a kernel in a file of its own; from then on that commit is
loaded, without a network. The package refuses publishers that the hub does not call trusted.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

LOCK = "kernels.lock"
COMMAND = "from kernels.cli import main; main()"


class HubError(RuntimeError):
    """A kernel that cannot be fetched."""


class HubKernel(NamedTuple):
    """A repository of the hub and the version of its kernel's interface."""

    repo: str
    version: int


HUB = {  # the function of ours that it is a source of: repositories and versions as diffusers 0.42.1 names them
    "flash": HubKernel("kernels-community/flash-attn2", 3),
    "flash3": HubKernel("kernels-community/flash-attn3", 1),
    "flash4": HubKernel("kernels-community/flash-attn4", 0),
    "sage": HubKernel("SageAttention/sage-attention", 3),
    "sage3": HubKernel("SageAttention/sage-blackwell", 1),
}
_loaded: dict[str, ModuleType | str] = {}  # what was fetched, or why it cannot be loaded


def installed() -> bool:
    """Return whether the package is there that fetches and loads them."""
    return importlib.util.find_spec("kernels") is not None


def folder(name: str) -> Path:
    """Return where the lock of a kernel lies."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "attention_patchbay" / "kernels" / name


def commit(name: str) -> str | None:
    """Return the commit that was fetched of a kernel; None where none was."""
    try:
        locks = json.loads((folder(name) / LOCK).read_text())
        return next(str(one["lock"]["commit"]) for one in locks if one["dependency"]["repo-id"] == HUB[name].repo)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


def failure(name: str) -> str | None:
    """Return why a kernel that was fetched cannot be loaded, None if it can."""
    if name not in _loaded:
        _loaded[name] = _load(name)
    found = _loaded[name]
    return None if isinstance(found, ModuleType) else found


def module(name: str) -> ModuleType:
    """Return the module of a kernel that was fetched. Raises RuntimeError where it cannot be loaded."""
    reason = failure(name)
    found = _loaded[name]
    if not isinstance(found, ModuleType):
        raise RuntimeError(f"the hub's {name} cannot be loaded: {reason}")
    return found


def _load(name: str) -> ModuleType | str:
    try:
        kernels = importlib.import_module("kernels")
        found: ModuleType = kernels.load_kernel(HUB[name].repo, lockfile=folder(name) / LOCK)
    except Exception as error:  # one built for another torch or GPU fails in ways of its own
        return (str(error).splitlines() or [type(error).__name__])[0]
    return found


def fetch(name: str) -> str:
    """Fetch the kernel that is a source of a function from the hub, and return its commit.

    Raises HubError with what the package said, and leaves what was fetched before.
    """
    lock = folder(name) / LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=lock.parent) as fresh:
        wanted = f'[tool.kernels.dependencies]\n"{HUB[name].repo}" = {HUB[name].version}\n'
        (Path(fresh) / "pyproject.toml").write_text(wanted)
        for step in ("lock", "download"):
            _run(step, fresh)
        os.replace(Path(fresh) / LOCK, lock)
    _loaded.pop(name, None)
    found = commit(name)
    if found is None:
        raise HubError(f"the lock of {name} names no commit of {HUB[name].repo}")
    return found


def _run(step: str, project: str) -> None:
    """Run a command of the package, in a process of its own: what it imports stays out of this one."""
    done = subprocess.run([sys.executable, "-c", COMMAND, step, project], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise HubError(f"kernels {step}: {said[-1] if said else f'it ended in {done.returncode}'}")
