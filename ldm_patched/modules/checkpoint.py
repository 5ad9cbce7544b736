"""Read safetensors files without loading what is not asked for, and refuse everything else with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

MAX_HEADER = 100_000_000
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
        header = _read_header(self.path)
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self.shapes: dict[str, tuple[int, ...]] = {key: tuple(entry["shape"]) for key, entry in header.items()}
        try:
            self._file = safe_open(self.path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise CheckpointError(f"{self.path}: not a valid safetensors file: {error}") from error

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.shapes:
            raise KeyError(key)
        return self._file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def _read_header(path: Path) -> dict:
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
    return _parse_header(path, text, size - 8 - length)


def _parse_header(path: Path, text: bytes, data_size: int) -> dict:
    try:
        header = json.loads(text)
        promised = max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: its header is not readable ({error})") from error
    if promised > data_size:
        raise CheckpointError(f"{path}: truncated: {promised} bytes of tensors are promised, {data_size} are there")
    return header
