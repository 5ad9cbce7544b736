"""What stands for a part that a checkpoint does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files.checkpoint import CheckpointError


class Absent:
    """Load as ComfyUI does, and raise CheckpointError where the part is used."""

    def __init__(self, part: str, path: Path, instead: str) -> None:
        self._told = f"{path}: the file holds no {part}; {instead}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself looks for, when it copies for example
            raise AttributeError(name)
        raise CheckpointError(self._told)
