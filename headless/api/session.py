"""What a run gives its nodes: the folders, where progress goes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

from .folders import Folders


def _silent(value: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Session:
    """The surroundings of one run.

    Args:
        progress: is called with the steps done and their number.
        unet_dtype: to compute UNets in, or None for what suits the device.
    """

    folders: Folders = field(default_factory=Folders)
    progress: Callable[[int, int], None] = _silent
    unet_dtype: torch.dtype | None = None


_current: ContextVar[Session] = ContextVar("session")


def current() -> Session:
    """Return the session of the run in progress, or one with the default folders."""
    return _current.get(None) or Session()


@contextmanager
def entered(session: Session) -> Iterator[None]:
    """Make a session the current one."""
    token = _current.set(session)
    try:
        yield
    finally:
        _current.reset(token)
