"""What a server answers, taken apart with care: any pack or proxy may have had a hand in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Outputs = dict[str, dict[str, Any]]


def as_dict(data: Any) -> dict[str, Any]:
    """Return an object; an empty one for anything else."""
    return data if isinstance(data, dict) else {}


def as_list(data: Any) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return data if isinstance(data, list) else []


def outputs_of(entry: Mapping[str, Any]) -> Outputs:
    """Return what the nodes of a job showed, from its entry in the history."""
    shown = as_dict(entry.get("outputs"))
    return {id: output for id, output in shown.items() if isinstance(output, dict)}


def files_of(output: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the files that a node saved or previewed."""
    entries = [entry for value in output.values() for entry in as_list(value)]
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("filename"), str)]


def place_in(queue: Any, prompt_id: str) -> int | None:
    """Return how many jobs are before a job in what /queue says, 0 where it runs, None where it is not there."""
    running, pending = (_jobs(as_dict(queue).get(part)) for part in ("queue_running", "queue_pending"))
    if prompt_id in running:
        return 0
    return len(running) + pending.index(prompt_id) if prompt_id in pending else None


def _jobs(entries: Any) -> list[str]:
    """Return the ids of jobs in their order; each is listed as [number, id, ...]."""
    found = [entry for entry in as_list(entries) if isinstance(entry, list) and len(entry) > 1]
    return [str(entry[1]) for entry in sorted(found, key=_number)]


def _number(entry: list[Any]) -> float:
    return entry[0] if isinstance(entry[0], (int, float)) and entry[0] == entry[0] else 0.0


def sizes_of(models: Any) -> dict[str, int]:
    """Return the bytes of model files by name."""
    found = [entry for entry in as_list(models) if isinstance(entry, dict)]
    return {
        entry["name"]: entry["size"]
        for entry in found
        if isinstance(entry.get("name"), str) and isinstance(entry.get("size"), int)
    }
