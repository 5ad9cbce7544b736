"""What files hold, in a few letters: a file is read once while it stays as it is."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from ...ldm_patched.files.whole import replacing

YOUNG = 2.0  # seconds: a file written so lately may be written again within the same tick of its clock
LETTERS = 64
ENDING = ".sha256"


class FileDigests:
    """SHA-256 of files; a folder keeps them for other processes, by path, size and time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """Return the digest of a file. Raises OSError."""
        status = path.stat()
        about = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
        name = hashlib.sha256(about.encode("utf-8", "surrogateescape")).hexdigest() + ENDING
        found = self._known.get(name) or self._read(name)
        if found is None:
            found = _digest(path)
            if abs(time.time() - status.st_mtime) > YOUNG:
                self._write(name, found)
        return found

    def _read(self, name: str) -> str | None:
        with suppress(OSError, UnicodeDecodeError):
            text = (self.folder / name).read_text(encoding="ascii")
            if len(text) == LETTERS and not set(text) - set("0123456789abcdef"):
                os.utime(self.folder / name)
                self._known[name] = text
                return text
        return None

    def _write(self, name: str, digest: str) -> None:
        self._known[name] = digest
        with suppress(OSError), replacing(self.folder / name) as file:  # else it is read again
            file.write(digest.encode())


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()
