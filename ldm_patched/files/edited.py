"""Copies of safetensors files with small tensors added or left out, a piece at a time: no weight is held in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .checkpoint import DTYPES, Checkpoint, CheckpointError
from .whole import this_name, write_new

PIECE = 16 * 1024 * 1024
ALIGNMENT = 8  # at which the tensors begin in a file


def write_edited(
    file: Checkpoint,
    target: Path,
    added: Mapping[str, bytes],
    without: Collection[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a copy of a file with tensors of bytes added, some left out and other metadata (None: the file's own).

    An added tensor takes the place of one of the same name. The copy appears once it is complete.

    Raises FileExistsError where something of that name is there.
    """
    kept = sorted((key for key in file if key not in without and key not in added), key=lambda key: file.span(key))
    kept.sort(key=lambda key: -_item_bytes(file, key))  # each still begins at a multiple of its size
    header = _header(file, kept, added, file.metadata if metadata is None else metadata)

    def write(copy: BinaryIO) -> None:
        copy.write(header)
        with file.path.open("rb") as source:
            for key in kept:
                _copy(source, copy, *file.span(key))
        for data in added.values():
            copy.write(data)

    write_new(this_name(target), write)


def _item_bytes(file: Checkpoint, key: str) -> int:
    known = DTYPES.get(file.dtypes[key])
    if known is not None:
        return known.itemsize
    begin, end = file.span(key)
    return (end - begin) // max(1, math.prod(file.shapes[key]))


def _header(file: Checkpoint, kept: list[str], added: Mapping[str, bytes], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    facts = [(key, file.dtypes[key], file.shapes[key], file.span(key)) for key in kept]
    facts += [(key, "U8", (len(data),), (0, len(data))) for key, data in added.items()]
    for key, dtype, shape, (begin, end) in facts:
        offsets = [place, place + end - begin]
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        place = offsets[1]
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _copy(source: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
    source.seek(begin)
    while begin < end:
        piece = source.read(min(PIECE, end - begin))
        if not piece:
            raise CheckpointError(f"{source.name}: it was cut short while it was read")
        target.write(piece)
        begin += len(piece)
