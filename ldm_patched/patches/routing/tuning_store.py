"""What tuning measured, kept in one JSON file; results of another device, driver or version are not used."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ...files.whole import replacing
from ...ldm.modules.backends import hub
from ...ldm.modules.backends.registry import AttentionCall
from .tuning import Timing, Tuned

FORMAT = 1
PACKAGES = (
    "torch",
    "xformers",
    "flash-attn",
    "flash-attn-4",
    "sageattention",
    "sageattn3",
    "comfy-kitchen",
    "attention-patchbay",
)


def machine(device: str) -> dict[str, str]:
    """Return what the times depend on: the device, its driver, threads, and the versions of the functions."""
    cpu = _line(Path("/proc/cpuinfo"), "model name")
    facts = {"device": device, "threads": str(torch.get_num_threads()), "cpu": cpu}
    if device == "cuda":
        driver = _line(Path("/proc/driver/nvidia/version"), "NVRM")
        facts |= {"device": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda), "driver": driver}
    facts |= {f"hub {name}": commit for name in hub.HUB if (commit := hub.commit(name)) is not None}
    return facts | {name: version for name in PACKAGES if (version := _version(name))}


def _line(path: Path, start: str) -> str:
    """Return the first line of a file that begins so; empty where there is no such file."""
    try:
        return next((line.strip() for line in path.read_text().splitlines() if line.startswith(start)), "")
    except OSError:
        return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


class TuningStore:
    """The results of one machine in a file; a file that cannot be read is as good as none."""

    def __init__(self, path: Path, facts: dict[str, str]) -> None:
        self.path = path
        self.facts = facts
        text = json.dumps(facts, sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()[:16]

    def load(self) -> dict[AttentionCall, Tuned]:
        """Return what is known about this machine."""
        found: dict[AttentionCall, Tuned] = {}
        with contextlib.suppress(TypeError, KeyError, AttributeError, ValueError):
            for entry in self._read()[self._key]["calls"]:
                one = _tuned(entry)
                found[one.call] = one
        return found

    def save(self, results: Iterable[Tuned]) -> None:
        """Add results to the file; other machines' stay, and a reader never sees half of it."""
        known = self.load() | {one.call: one for one in results}
        machines = self._read() | {self._key: {"machine": self.facts, "calls": [_plain(one) for one in known.values()]}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            file.write(json.dumps({"format": FORMAT, "machines": machines}, indent=1).encode())

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text())
            return dict(data["machines"]) if data["format"] == FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}


def _plain(one: Tuned) -> dict[str, Any]:
    call = {name: _word(value) for name, value in dataclasses.asdict(one.call).items()}
    return {"call": call, "timings": [list(timing) for timing in one.timings]}


def _word(value: Any) -> Any:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


def _tuned(entry: dict[str, Any]) -> Tuned:
    call = dict(entry["call"])
    for name in ("dtype", "mask", "precision"):
        call[name] = None if call.get(name) is None else _dtype(call[name])
    timings = (Timing(str(name), float(seconds), float(error)) for name, seconds, error in entry["timings"])
    return Tuned(AttentionCall(**call), tuple(timings))


def _dtype(word: str) -> torch.dtype:
    found = getattr(torch, word)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{word} is no dtype")
    return found
