"""The inputs that a node has in a workflow: those of its class, and those that a choice or a link brings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..api.comfy_io import ComfyNode
from ..api.dynamic_io import CHOICE, GROWING

Config = tuple[str, dict[str, Any]]  # type and settings of an input
Entry = tuple[str, bool, Config]  # its name, whether it is optional


def brought(inputs: Iterable[Entry], given: Mapping[str, Any]) -> Iterator[Entry]:
    """Yield the inputs of a node for the values that it was given by name."""
    for name, optional, (kind, settings) in inputs:
        if kind == GROWING:
            yield from _grown(name, settings["template"], given)
        elif kind == CHOICE:
            keys = [option["key"] for option in settings["options"]]
            yield name, optional, ("COMBO", {**settings, "options": keys})
            chosen = [option["inputs"] for option in settings["options"] if option["key"] == given.get(name)]
            yield from brought(_entries(f"{name}.", chosen[0] if chosen else {}), given)
        else:
            yield name, optional, (kind, settings)


def entries(cls: type[ComfyNode]) -> list[Entry]:
    """Return the inputs of a class."""
    return [(entry.id, entry.optional, entry.info()) for entry in cls.GET_SCHEMA().inputs]


def declared(cls: type[ComfyNode], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a node that its class declares; what else is given for it is nobody's."""
    if cls.GET_SCHEMA().accept_all_inputs:
        return dict(node["inputs"])
    names = {name for name, _, _ in brought(entries(cls), node["inputs"])}
    return {name: value for name, value in node["inputs"].items() if name in names}


def gathered(inputs: Iterable[Entry], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a node as it gets them: what was brought by an input as a dict under its name."""
    found = dict(values)
    for name, _, (kind, _) in inputs:
        if kind in (GROWING, CHOICE):
            parts = {key: found.pop(key) for key in list(found) if key.startswith(f"{name}.")}
            start = {name: found[name]} if kind == CHOICE and name in found else {}
            found[name] = start | {key.removeprefix(f"{name}."): value for key, value in parts.items()}
    return found


def _entries(prefix: str, groups: Mapping[str, Mapping[str, Config]]) -> Iterator[Entry]:
    for group, entries in groups.items():
        for name, config in entries.items():
            yield prefix + name, group == "optional", config


def _grown(name: str, template: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Entry]:
    ((_, _, config),) = _entries("", template["input"])
    numbers = range(template.get("max", 0))
    names = template.get("names") or [f"{template['prefix']}{number}" for number in numbers]
    for place, one in enumerate(names):
        full, needed = f"{name}.{one}", place < template["min"]
        if needed or full in given:
            yield full, not needed, config
