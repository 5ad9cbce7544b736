"""What the commands of this folder share: values refused in words, and an end by Ctrl-C without a traceback."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def count(text: str, least: int = 1, multiple: int = 1) -> int:
    """Read a number from `least` on that `multiple` divides."""
    if not text.isdecimal() or int(text) < least or int(text) % multiple:
        wanted = f"a multiple of {multiple}" if multiple > 1 else f"a number from {least}"
        raise argparse.ArgumentTypeError(f"{text!r}; give {wanted}")
    return int(text)


def new_file(text: str) -> Path:
    """Read the name of a file that can be written."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: there is no folder {str(path.parent)!r}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, or in one that cannot be written")
    return path


def run(main: Callable[[], int | None]) -> int:
    """Run a command and return its exit code, 130 where Ctrl-C ended it."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # whoever started this may have let it ignore them
        signal.signal(ending, signal.default_int_handler)
    try:
        return main() or 0
    except KeyboardInterrupt:
        print("\nended", file=sys.stderr)
        return 130


@contextmanager
def deaf() -> Iterator[None]:
    """Let processes that are started meanwhile leave Ctrl-C to this one."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
