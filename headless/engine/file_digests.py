"""What files hold, in a few letters: a file is read once while it stays as it is."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

LARGE = 2**26  # bytes, from which on size and time stand for what is not read: a checkpoint takes seconds to read
BLOCKS, BLOCK = 64, 2**16  # of a large file, spread over it: its header and some of its numbers
YOUNG = 2.0  # seconds: a file written so lately may be written again within the same tick of its clock


class FileDigests:
    """SHA-256 of files by path, size and time."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}

    def of(self, path: Path) -> str:
        """Return the digest of a file. Raises OSError."""
        status = path.stat()
        about = path.resolve(), status.st_size, status.st_mtime_ns
        found = self._known.get(about) or _digest(path, status)
        if abs(time.time() - status.st_mtime) > YOUNG:
            self._known[about] = found
        return found


def _digest(path: Path, status: os.stat_result) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        if status.st_size > LARGE:
            found.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            for number in range(BLOCKS):
                file.seek((status.st_size - BLOCK) * number // (BLOCKS - 1))
                found.update(file.read(BLOCK))
        else:
            while part := file.read(2**20):
                found.update(part)
    return found.hexdigest()
