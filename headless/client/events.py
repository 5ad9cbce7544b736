"""What a ComfyUI server tells while a job runs, from the messages of its websocket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .answers import as_dict, as_list

PREVIEW, PREVIEW_WITH_METADATA = 1, 4  # kinds of binary messages


@dataclass(frozen=True)
class Queued:
    """The job waits; `position` jobs are before it, the running one included."""

    position: int


@dataclass(frozen=True)
class Node:
    """A node begins."""

    node: str


@dataclass(frozen=True)
class Step:
    """A node is at `value` of `total` steps."""

    node: str
    value: int
    total: int


@dataclass(frozen=True)
class Cached:
    """These nodes are not run again: their results of an earlier job are taken."""

    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Executed:
    """A node showed something: images, texts."""

    node: str
    output: dict[str, Any]


@dataclass(frozen=True)
class Preview:
    """An image of how far a sampler is, as JPEG or PNG."""

    image: bytes


@dataclass(frozen=True)
class Finished:
    """The job is over; `status` is `success`, `error` or `interrupted`, `data` what the server says of it."""

    status: str
    data: dict[str, Any]


Event = Queued | Node | Step | Cached | Executed | Preview | Finished
ENDS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}


def event_of(message: str | bytes, prompt_id: str) -> Event | None:
    """Return what a message of the websocket says about a job; None where it is about another, or says nothing."""
    if isinstance(message, bytes):
        return _preview(message)
    try:
        entry = json.loads(message)
        kind, data = entry["type"], entry["data"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("prompt_id") != prompt_id:
        return None
    return _event(kind, data)


def _event(kind: Any, data: dict[str, Any]) -> Event | None:
    if isinstance(kind, str) and kind in ENDS:
        return Finished(ENDS[kind], data)
    if kind == "executing" and data.get("node") is not None:
        return Node(str(data["node"]))
    if kind == "execution_cached" and isinstance(data.get("nodes"), list):
        return Cached(tuple(map(str, data["nodes"])))
    if kind == "executed" and isinstance(data.get("output"), dict):
        return Executed(str(data.get("node")), data["output"])
    if kind == "progress" and _is_count(data.get("value")) and _is_count(data.get("max")):
        return Step(str(data.get("node")), int(data["value"]), int(data["max"]))
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < 2**53


def _preview(message: bytes) -> Preview | None:
    kind, start = int.from_bytes(message[:4], "big"), 8
    if kind == PREVIEW_WITH_METADATA:
        start += int.from_bytes(message[4:8], "big")
    known = kind in (PREVIEW, PREVIEW_WITH_METADATA) and len(message) > start
    return Preview(message[start:]) if known else None


def end_in_history(entry: Mapping[str, Any]) -> Finished:
    """Return how a job ended, from its entry in the server's history."""
    status = as_dict(entry.get("status"))
    for message in as_list(status.get("messages")):
        kind, data = message if isinstance(message, list) and len(message) == 2 else (None, None)
        if isinstance(kind, str) and ENDS.get(kind, "success") != "success":
            return Finished(ENDS[kind], as_dict(data))
    return Finished("success" if status.get("status_str", "success") == "success" else "error", {})
