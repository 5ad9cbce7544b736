"""The keys and shapes of a state dict: prefixes, and how many blocks it numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .checkpoint import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]


def find_prefix(keys: Iterable[str], prefixes: Iterable[str], key: str) -> str | None:
    """Return the first prefix under which a key exists."""
    known = set(keys)
    return next((prefix for prefix in prefixes if prefix + key in known), None)


def strip_prefix(shapes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries under a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in shapes.items() if key.startswith(prefix)}


def side(shapes: Shapes, key: str, axis: int = 0) -> int:
    """Return the length of one side of a tensor.

    Raises CheckpointError when there is no such tensor or side, or it is empty.
    """
    shape = shapes.get(key)
    if shape is None:
        raise CheckpointError(f"{key} is missing; the file is incomplete or of another kind")
    if not -len(shape) <= axis < len(shape) or shape[axis] == 0:
        raise CheckpointError(f"{key} of shape {list(shape)} is not what a network of its kind has there")
    return shape[axis]


def count_blocks(shapes: Iterable[str], prefix: str) -> int:
    """Return how many blocks are numbered under a prefix: the highest number and one."""
    indices = {int(found[1]) for key in shapes if (found := re.match(re.escape(prefix) + r"(\d+)\.", key))}
    return max(indices) + 1 if indices else 0


def some_keys(keys: Iterable[str]) -> str:
    """Name a few keys for a message."""
    some = sorted(keys)[:3]
    return ", ".join(some) + ", ..." if some else "no keys"
