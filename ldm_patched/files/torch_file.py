"""Read what torch.save wrote, by torch's unpickler that knows tensors and plain values alone: nothing in a file runs.

A tensor is mapped from the file, so that no header can claim more than there is.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import CONVERT, PICKLE_SUFFIXES, Checkpoint, CheckpointError

MAX_PICKLE = 100_000_000  # bytes of all that is no tensor
INSIDE = ("state_dict", "string_to_param")  # where training scripts keep the weights among other things


def load_torch_file(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Return the value that a file holds, tensors on the CPU.

    Raises CheckpointError for the format of before torch 1.6, for objects that only running code would make, and for
    tensors that are larger than the file.
    """
    path = Path(path)
    _check_members(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: holds more than tensors and plain values ({reason}); {CONVERT}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}, not named tensors")
    size = path.stat().st_size
    for tensor in _tensors(found):
        if tensor.numel() * tensor.element_size() > size:
            raise CheckpointError(f"{path}: damaged: a tensor of {tensor.numel()} numbers is larger than the file")
    return found


def _check_members(path: Path) -> None:
    """Refuse what is no archive of torch, and archives that unpack to more than they are."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        raise CheckpointError(f"{path}: not a file of torch 1.6 or later, or damaged; {CONVERT}") from None
    pickled = sum(one.file_size for one in members if one.filename.endswith(".pkl"))
    packed = any(one.compress_type != zipfile.ZIP_STORED or one.file_size != one.compress_size for one in members)
    if packed or pickled > MAX_PICKLE:
        raise CheckpointError(f"{path}: not as torch writes it: its parts are packed, or too large")


def _tensors(value: Any) -> Iterator[Tensor]:
    """Walk over the tensors of nested values, each container once."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (dict, list, tuple)) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, dict) else one


def named_tensors(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file, or of a file that torch.save wrote.

    Raises CheckpointError, naming the file.
    """
    if Path(path).suffix.lower() not in PICKLE_SUFFIXES or _is_safetensors(Path(path)):
        return Checkpoint(path)
    found: Any = load_torch_file(path)
    for name in INSIDE:
        found = found[name] if isinstance(found.get(name), dict) else found
    if len(found) == 1 and isinstance(next(iter(found.values())), dict):
        found = next(iter(found.values()))
    return {key: value.detach() for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do, whatever it is called."""
    if not path.is_file():
        return True  # which says that it is not there
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"
