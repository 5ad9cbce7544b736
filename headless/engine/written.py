"""The files that nodes wrote, by what they show: where one is gone or another, the node has to write again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..api.folders import Folders

Print = tuple[str, int, int]  # path, size and time


def written(ui: Mapping[str, list[Any]], folders: Folders) -> list[Print]:
    """Return a node's files that are there: entries that it shows as the page has them, and texts that are paths."""
    found = []
    for path in _paths(ui, folders):
        with suppress(OSError, ValueError):  # a text may be anything
            if path.is_file():
                status = path.stat()
                found.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    return found


def _paths(ui: Mapping[str, list[Any]], folders: Folders) -> Iterator[Path]:
    for entry in _entries(list(ui.values())):
        root = folders.output if entry.get("type") == "output" else folders.temp
        yield root / str(entry.get("subfolder", "")) / entry["filename"]
    yield from (Path(text) for text in ui.get("text", []) if isinstance(text, str))


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the entries in lists and objects."""
    if isinstance(value, dict) and isinstance(value.get("filename"), str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _entries(part)
