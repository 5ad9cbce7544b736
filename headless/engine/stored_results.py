"""Results of nodes in a folder, for other processes: tensors and plain values, never models, never pickles."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from ...ldm_patched.files.whole import replacing
from ...ldm_patched.text.clip_vision import ClipVisionOutput
from ..api.comfy_io import NodeOutput
from .older_results import PLAIN

MOST = 2**31  # bytes of a folder
LEFT = 3600.0  # seconds after which an unfinished file is that of a writer who died
ENDING = ".safetensors"
ROOM = "patchbay-results"  # in the folder that was given, which may hold anything
OURS = re.compile(r"[0-9a-f]{64}\.safetensors")
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")
log = logging.getLogger(__name__)


class StoredResults:
    """Results by what they depend on, up to a number of bytes; the one that was longest of no use goes first.

    They lie in a room of their own in the folder. Any number of processes may share it: files come whole under their
    name, the SHA-256 of what they depend on, and one that goes is a miss.
    """

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self.folder, self.most, self.is_writable = folder / ROOM, most, True

    def get(self, key: str) -> NodeOutput | None:
        """Return a result; None where there is none, or a damaged one, which is removed."""
        path = self.folder / (key + ENDING)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            found = _loaded(data)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is damaged, and removed: %s", path, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return NodeOutput(*found)

    def keep(self, key: str, result: NodeOutput) -> None:
        """Keep a result that is made of tensors and plain values, and remove what is too much."""
        if not self.is_writable or result.ui:
            return
        try:
            data = _saved(result.args)
        except TypeError:
            return
        if len(data) > self.most:
            return
        try:
            self.folder.parent.mkdir(exist_ok=True)  # a worker elsewhere that lacks the sweep's folder makes none
            self.folder.mkdir(exist_ok=True)
            with replacing(self.folder / (key + ENDING)) as file:
                file.write(data)
            self._trim()
        except OSError as error:
            self.is_writable = False
            log.warning("%s: no more results are kept there: %s", self.folder, error)

    def _trim(self) -> None:
        with os.scandir(self.folder) as entries:
            found = [about for entry in entries if (about := _about(entry)) is not None]
        too_much = sum(size for _, size, _ in found) - self.most
        for _, size, path in sorted(found):
            if too_much <= 0:
                break
            Path(path).unlink(missing_ok=True)
            too_much -= size


def _about(entry: os.DirEntry[str]) -> tuple[float, int, str] | None:
    """Return time, size and path of a result; None for one that is gone or being written, and for any other file."""
    is_ours, is_unfinished = OURS.fullmatch(entry.name), UNFINISHED.fullmatch(entry.name)
    if not (is_ours or is_unfinished) or not entry.is_file(follow_symlinks=False):
        return None
    try:
        status = entry.stat()
    except FileNotFoundError:
        return None
    if is_ours:
        return status.st_mtime, status.st_size, entry.path
    if time.time() - status.st_mtime > LEFT:
        Path(entry.path).unlink(missing_ok=True)
    return None


# Files


def _saved(value: Any) -> bytes:
    """Return the bytes of a safetensors file. Raises TypeError for what is more than tensors and plain values."""
    tensors: dict[str, Tensor] = {}
    form = json.dumps(_form(value, tensors))
    return save(tensors, {"form": form, "sha256": _digest(form, tensors)})


def _loaded(data: bytes) -> Any:
    """Return what `_saved` was given. Raises SafetensorError, KeyError, TypeError and ValueError."""
    tensors = load(data)
    about = _metadata(data)
    if about["sha256"] != _digest(about["form"], tensors):
        raise ValueError("its digest is another")
    return _value(json.loads(about["form"]), tensors)


def _metadata(data: bytes) -> Mapping[str, str]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def _digest(form: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(form.encode())
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _form(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a value as JSON, its kind as the name, and put its tensors into a dict."""
    if type(value) is Tensor and value.device.type == "cpu" and not value.requires_grad:
        name = str(len(tensors))
        strides = value.stride()
        order = sorted(range(value.dim()), key=lambda axis: -strides[axis])  # sums may depend on the order
        tensors[name] = value.permute(order).contiguous().clone()
        return {"tensor": name, "order": order}
    if type(value) is list:
        return {"list": [_form(part, tensors) for part in value]}
    if type(value) is tuple:
        return {"tuple": [_form(part, tensors) for part in value]}
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return {"dict": {name: _form(part, tensors) for name, part in value.items()}}
    if type(value) is ClipVisionOutput:
        return {"vision": {name: _form(part, tensors) for name, part in vars(value).items()}}
    if type(value) in PLAIN:
        return {"value": value}
    raise TypeError(f"{type(value).__name__} is kept by no file")


def _value(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    if "tensor" in form:
        order = form["order"]
        found = tensors[form["tensor"]].clone()  # the bytes of a file lie anywhere
        return found.permute([order.index(axis) for axis in range(len(order))])
    if "list" in form:
        return [_value(part, tensors) for part in form["list"]]
    if "tuple" in form:
        return tuple(_value(part, tensors) for part in form["tuple"])
    if "dict" in form:
        return {name: _value(part, tensors) for name, part in form["dict"].items()}
    if "vision" in form:
        return ClipVisionOutput(**{name: _value(part, tensors) for name, part in form["vision"].items()})
    return form["value"]
