"""Read safetensors files without loading what is not asked for, and refuse everything else with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MAX_HEADER = 100_000_000
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
MAX_DIMENSIONS = 64
MAX_ELEMENTS = 2**63 - 1  # what torch counts with

CONVERT = (
    'convert it once, in an environment you trust the file in: python -c "import torch, safetensors.torch as s; '
    "d = torch.load('IN', map_location='cpu', weights_only=True); "
    "s.save_file({k: v.contiguous() for k, v in d.get('state_dict', d).items() if torch.is_tensor(v)}, "
    "'OUT.safetensors')\""
)


class CheckpointError(ValueError):
    """A model file that cannot be used; the text says what was found and what was expected."""


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a safetensors file, memory-mapped and read one at a time; `shapes` costs no reading.

    `read` holds the keys that were asked for.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header, start = _read_header(self.path)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.shapes: dict[str, tuple[int, ...]] = {key: tuple(entry["shape"]) for key, entry in header.items()}
        self.dtypes: dict[str, str] = {key: entry["dtype"] for key, entry in header.items()}
        try:
            with safe_open(self.path, framework="pt", device="cpu"):
                pass
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: not a valid safetensors file: {error}") from error
        self._entries, self._start = header, start
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        entry = self._entries[key]
        self.read.add(key)
        begin, end = self.span(key)
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(f"{self.path}: {key} has the dtype {entry['dtype']}; known are {', '.join(DTYPES)}")
        if begin == end:
            return torch.empty(self.shapes[key], dtype=dtype)
        # a mapping of its own for every tensor: its pages are given back as soon as the tensor has been converted
        data = torch.from_numpy(np.memmap(self.path, np.uint8, "c", begin, (end - begin,)))
        aligned = data if data.data_ptr() % dtype.itemsize == 0 else data.clone()
        return aligned.view(dtype).reshape(self.shapes[key])

    def loaded(self) -> dict[str, Tensor]:
        """Return copies of all tensors in memory, which hold neither mappings nor handles of the file."""
        return {key: self[key].clone() for key in self}

    def span(self, key: str) -> tuple[int, int]:
        """Return where the bytes of a tensor begin and end in the file."""
        begin, end = self._entries[key]["data_offsets"]
        return self._start + begin, self._start + end

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start, first = file.read(8), file.read(1)
        length = int.from_bytes(start, "little")
        # a length may look like the start of anything; what it counts begins with a brace
        if length > min(MAX_HEADER, size - 8) or first != b"{":
            raise CheckpointError(f"{path}: {_no_header(path, start, length, size)}")
        text = first + file.read(length - 1)
    return _parse_header(path, text, size - 8 - length), 8 + length


def _no_header(path: Path, start: bytes, length: int, size: int) -> str:
    """Say what a file is that does not begin as safetensors do."""
    if path.suffix.lower() in PICKLE_SUFFIXES or start.startswith(PICKLE_STARTS):
        return f"a pickle can run code when it is opened, so it is not loaded; {CONVERT}"
    if start.startswith(b"GGUF"):
        return "quantised as GGUF, which is not read here: take a safetensors version of the model"
    if size > 8 and size - 8 < length <= MAX_HEADER:
        return f"truncated: its header has {length} bytes, the file ends after {size}"
    return f"not a safetensors file ({size} bytes, no readable header)"


def _parse_header(path: Path, text: bytes, data_size: int) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{path}: not a safetensors file: its header is not readable ({reason})") from None
    entries = (
        {key: entry for key, entry in header.items() if key != "__metadata__"} if isinstance(header, dict) else None
    )
    if entries is None or not _texts(header.get("__metadata__", {})):
        raise CheckpointError(f"{path}: not a safetensors file: its header is not readable (not an object of tensors)")
    parts = sorted((*_span(path, key, entry), key) for key, entry in entries.items())
    promised = max((end for _, end, _ in parts), default=0)
    if promised > data_size:
        raise CheckpointError(f"{path}: truncated: {promised} bytes of tensors are promised, {data_size} are there")
    place = 0
    for begin, end, key in parts:
        if begin != place:
            what = (
                "overlaps the tensor before it" if begin < place else f"leaves {begin - place} bytes before it unused"
            )
            raise CheckpointError(f"{path}: not a valid safetensors file: {_short(key)} {what}")
        place = end
    if place != data_size:
        raise CheckpointError(f"{path}: not a valid safetensors file: {data_size - place} bytes follow the last tensor")
    return header


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{_short(key)!r} stands there twice")
        found[key] = value
    return found


def _short(key: str) -> str:
    return key if len(key) <= 200 else f"{key[:200]}..."


def _texts(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


def _span(path: Path, key: str, entry: object) -> tuple[int, int]:
    """Return where a tensor begins and ends, after checking that its dtype and shape fill that."""
    shape, offsets, dtype = (
        entry.get(n) if isinstance(entry, dict) else None for n in ("shape", "data_offsets", "dtype")
    )
    name = f"{path}: not a valid safetensors file: {_short(key)}"
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2 and isinstance(dtype, str)):  # type: ignore[arg-type]
        raise CheckpointError(f"{path}: not a safetensors file: {_short(key)} has no dtype, shape and data_offsets")
    begin, end = offsets  # type: ignore[misc]
    elements = _elements(shape)  # type: ignore[arg-type]
    if elements is None:
        raise CheckpointError(f"{name} has more than {MAX_DIMENSIONS} dimensions or {MAX_ELEMENTS} elements")
    if dtype in DTYPES and elements * DTYPES[dtype].itemsize != end - begin:
        raise CheckpointError(f"{name}: {dtype} of shape {shape} does not fill the bytes {begin} to {end}")
    if end < begin:
        raise CheckpointError(f"{name} ends before it begins")
    return begin, end


def _elements(shape: list[int]) -> int | None:
    """Return the number of elements; None where torch cannot count them, also beside an empty dimension."""
    count = 1
    for side in shape[: MAX_DIMENSIONS + 1]:
        count = min(count * max(side, 1), MAX_ELEMENTS + 1)
    if count > MAX_ELEMENTS or len(shape) > MAX_DIMENSIONS:
        return None
    return 0 if 0 in shape else count


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(part) is int and part >= 0 for part in value)
