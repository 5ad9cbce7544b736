"""The folder of a sweep at an address of fsspec (S3, GCS, ...): what is needed of it lies in a folder here."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..api.folders import inside
from ..engine.errors import FAILED, Failure, code_of, missing
from ..engine.workflow import short

TRIES = 3
PAUSE = 1.0  # seconds before the second try; twice as long before the third
SMALL = (".json", ".jsonl", ".difference")  # files that are fetched at once; pictures are when they are compared


def is_address(folder: str) -> bool:
    """Return whether a folder is an address of fsspec and not a path."""
    return "://" in folder


@contextlib.contextmanager
def at_hand(folder: str) -> Iterator[tuple[Path, Away | None]]:
    """Give the folder of a sweep on this machine, and where it is away from here.

    Raises Failure for an address that cannot be reached.
    """
    if not is_address(folder):
        yield Path(folder), None
        return
    away = Away(folder)
    here = Path(tempfile.mkdtemp(prefix="patchbay-sweep-"))
    try:
        away.fetch(here)
        yield here, away
    finally:
        shutil.rmtree(here, ignore_errors=True)


class Away:
    """Files at an address, each of them whole whenever a process dies: a store of objects shows none before it is."""

    def __init__(self, address: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise Failure(missing(error.name), FAILED) from None
        try:
            self.fs, root = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:  # of a protocol whose package is not there, or that none has
            raise Failure(f"--folder {short(address)}: {error}") from None
        self.address, self.root = address, str(root).rstrip("/")
        self.is_disk = "file" in ([self.fs.protocol] if isinstance(self.fs.protocol, str) else self.fs.protocol)
        self.sizes: dict[str, int] = {}

    def fetch(self, here: Path) -> None:
        """Learn what is there, and bring the small files here."""
        found = self._tried(lambda: self.fs.find(self.root, detail=True)) if self._tried(self._exists) else {}
        self.sizes = {path[len(self.root) :].lstrip("/"): int(about["size"] or 0) for path, about in found.items()}
        for name in self.sizes:
            if name.endswith(SMALL):
                self.get(here, name)

    def has(self, name: str) -> bool:
        """Return whether a file with something in it is there."""
        return self.sizes.get(name, 0) > 0

    def is_taken(self, name: str) -> bool:
        """Return whether a file is there, empty or not, or files in a folder of that name."""
        return any(one == name or one.startswith(f"{name}/") for one in self.sizes)

    def get(self, here: Path, name: str) -> None:
        """Bring a file here, unless it is or there is none."""
        path = inside(here, name)
        if name in self.sizes and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._tried(lambda: self.fs.cat_file(f"{self.root}/{name}")))

    def put(self, here: Path, name: str) -> None:
        """Send a file there; whoever reads meanwhile finds the old one or the new one."""
        data, target = (here / name).read_bytes(), f"{self.root}/{name}"
        self._tried(lambda: self._put(target, data))
        self.sizes[name] = len(data)

    def remove(self, name: str) -> None:
        """Remove a file there, where there is one."""
        if name in self.sizes:
            self._tried(lambda: self.fs.rm_file(f"{self.root}/{name}"))
            del self.sizes[name]

    def _put(self, target: str, data: bytes) -> None:
        if not self.is_disk:
            self.fs.pipe_file(target, data)
            return
        self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        unfinished = f"{target}.{uuid.uuid4().hex}.part"  # a name that no other file has
        self.fs.pipe_file(unfinished, data)
        self.fs.mv(unfinished, target)

    def _exists(self) -> bool:
        return bool(self.fs.exists(self.root))

    def _tried(self, ask: Callable[[], Any]) -> Any:
        for left in reversed(range(TRIES)):
            try:
                return ask()
            except OSError as error:
                if not left:
                    raise Failure(f"{self.address}: {error}; start again to go on", code_of(error)) from error
                time.sleep(PAUSE * (TRIES - left))
        raise AssertionError
