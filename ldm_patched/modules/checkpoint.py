"""Read safetensors files without loading what is not asked for, and refuse everything else with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

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
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")

CONVERT = (
    'convert it once, in an environment you trust the file in: python -c "import torch, safetensors.torch as s; '
    "d = torch.load('IN', map_location='cpu', weights_only=True); "
    "s.save_file({k: v.contiguous() for k, v in d.get('state_dict', d).items() if torch.is_tensor(v)}, "
    "'OUT.safetensors')\""
)


class CheckpointError(ValueError):
    """A model file that cannot be used; the text says what was found and what was expected."""


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a safetensors file, memory-mapped and read one at a time; `shapes` costs no reading."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header, start = _read_header(self.path)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.shapes: dict[str, tuple[int, ...]] = {key: tuple(entry["shape"]) for key, entry in header.items()}
        try:
            with safe_open(self.path, framework="pt", device="cpu"):
                pass
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: not a valid safetensors file: {error}") from error
        self._entries, self._start = header, start

    def __getitem__(self, key: str) -> Tensor:
        entry = self._entries[key]
        begin, end = entry["data_offsets"]
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(f"{self.path}: {key} has the dtype {entry['dtype']}; known are {', '.join(DTYPES)}")
        if begin == end:
            return torch.empty(self.shapes[key], dtype=dtype)
        # a mapping of its own for every tensor: its pages are given back as soon as the tensor has been converted
        data = torch.from_numpy(np.memmap(self.path, np.uint8, "c", self._start + begin, (end - begin,)))
        aligned = data if data.data_ptr() % dtype.itemsize == 0 else data.clone()
        return aligned.view(dtype).reshape(self.shapes[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _read_header(path: Path) -> tuple[dict, int]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if path.suffix.lower() in PICKLE_SUFFIXES or start.startswith(PICKLE_STARTS):
            raise CheckpointError(f"{path}: a pickle can run code when it is opened, so it is not loaded; {CONVERT}")
        length = int.from_bytes(start, "little")
        if size < 8 or length > MAX_HEADER:
            raise CheckpointError(f"{path}: not a safetensors file ({size} bytes, no readable header)")
        text = file.read(length)
    if len(text) < length:
        raise CheckpointError(f"{path}: truncated: its header has {length} bytes, the file ends after {size}")
    return _parse_header(path, text, size - 8 - length), 8 + length


def _parse_header(path: Path, text: bytes, data_size: int) -> dict:
    try:
        header = json.loads(text)
        promised = max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: its header is not readable ({error})") from error
    if promised > data_size:
        raise CheckpointError(f"{path}: truncated: {promised} bytes of tensors are promised, {data_size} are there")
    return header
