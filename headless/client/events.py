"""What a ComfyUI server tells while a job runs, from the messages of its websocket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

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
    if kind in ENDS:
        return Finished(ENDS[kind], data)
    if kind == "executing" and data.get("node") is not None:
        return Node(str(data["node"]))
    if kind == "execution_cached" and isinstance(data.get("nodes"), list):
        return Cached(tuple(map(str, data["nodes"])))
    if kind == "executed" and isinstance(data.get("output"), dict):
        return Executed(str(data.get("node")), data["output"])
    if kind == "progress" and isinstance(data.get("value"), (int, float)) and isinstance(data.get("max"), (int, float)):
        return Step(str(data.get("node")), int(data["value"]), int(data["max"]))
    return None


def _preview(message: bytes) -> Preview | None:
    kind = int.from_bytes(message[:4], "big")
    if kind == PREVIEW and len(message) > 8:
        return Preview(message[8:])
    if kind == PREVIEW_WITH_METADATA and len(message) > 8:
        return Preview(message[8 + int.from_bytes(message[4:8], "big") :])
    return None


def end_in_history(entry: dict[str, Any]) -> Finished:
    """Return how a job ended, from its entry in the server's history."""
    status = entry.get("status") or {}
    for kind, data in status.get("messages") or []:
        if kind in ENDS and ENDS[kind] != "success":
            return Finished(ENDS[kind], data)
    return Finished("success" if status.get("status_str", "success") == "success" else "error", {})
