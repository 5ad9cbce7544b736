"""Files that are written whole or not at all, under names that no other writer gets."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` once it is complete; a link stays, and leads to the new file.

    Args:
        durable: whether it has to outlive a loss of power from then on.
    """
    path = Path(os.path.realpath(path))  # which a circle of links does not break
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device is written to, a folder refused
        with path.open("wb") as file:
            yield file
        return
    with _unfinished(path.parent, durable) as (unfinished, file):
        if path.exists():  # what is private stays so
            os.chmod(unfinished, stat.S_IMODE(path.stat().st_mode))
        yield file
        _close(file, durable)
        os.replace(unfinished, path)


def write_new(paths: Iterable[Path], write: Callable[[BinaryIO], Any]) -> Path:
    """Write a whole file under the first of the paths that is free, and return that one.

    Of any number of processes that write to a folder at once each gets a name of its own.
    """
    waiting = iter(paths)
    path = next(waiting)
    with _unfinished(path.parent, False) as (unfinished, file):
        write(file)
        _close(file, False)
        while not _claimed(unfinished, path):
            path = next(waiting)
    return path


def this_name(path: Path) -> Iterator[Path]:
    """Yield one path for `write_new`. Raises FileExistsError where it is not free."""
    yield path
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a loss of power."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sync_file(path: Path) -> None:
    """Make what is in a file outlive a loss of power."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _unfinished(folder: Path, durable: bool) -> Iterator[tuple[Path, BinaryIO]]:
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        with _created(path) as file:
            yield path, file
        if durable:
            sync_folder(folder)
    finally:
        try:
            _discard(path)
        except KeyboardInterrupt:  # it came before the file was gone
            _discard(path)
            raise


def _created(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except OSError as error:
        error.filename = str(path.parent)
        raise


def _discard(path: Path) -> None:
    with suppress(OSError):  # another error tells more
        path.unlink()


def _close(file: BinaryIO, durable: bool) -> None:
    file.flush()
    if durable:
        os.fsync(file.fileno())
    file.close()


def _claimed(unfinished: Path, path: Path) -> bool:
    """Give a file a second name; tell whether that was free."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: the name is taken first, empty
        try:
            path.open("xb").close()
        except FileExistsError:
            return False
        os.replace(unfinished, path)
    return True
