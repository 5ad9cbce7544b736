"""Nodes of a ComfyUI as it describes them in /object_info, to check workflows against without having them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .page_widgets import UPLOADS, Infos


@dataclass(frozen=True)
class DescribedInput:
    """An input of a described node."""

    id: str
    optional: bool
    type: str
    settings: Mapping[str, Any]

    def info(self) -> tuple[str, Mapping[str, Any]]:
        """Return its type and settings."""
        return self.type, self.settings


@dataclass(frozen=True)
class DescribedOutput:
    """An output of a described node."""

    io_type: str


class DescribedNode:
    """A node by its entry in /object_info; it answers what `validate` asks of a class."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        groups = info.get("input") or {}
        self.inputs = [
            _input(name, entry, group == "optional")
            for group in ("required", "optional")
            for name, entry in (groups.get(group) or {}).items()
        ]
        self.outputs = [DescribedOutput(_type(kind)) for kind in info.get("output") or []]
        self.is_output_node = bool(info.get("output_node"))
        self.open = any(is_open(entry.type) for entry in self.inputs)

    def GET_SCHEMA(self) -> DescribedNode:
        """Return what describes the node: itself."""
        return self


def is_open(type: str) -> bool:
    """Tell whether inputs of a type come as others, of names that only the node knows."""
    return type.startswith("COMFY_")


def _input(name: str, entry: Any, optional: bool) -> DescribedInput:
    kind, settings = entry[0], entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
    if isinstance(kind, list):
        kind, settings = "COMBO", {**settings, "options": kind}
    if any(settings.get(upload) for upload in UPLOADS) or "remote" in settings:
        settings = {key: value for key, value in settings.items() if key != "options"}  # the server looks it up
    return DescribedInput(name, optional, _type(kind), settings)


def _type(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else str(kind)


def described(infos: Infos) -> dict[str, Any]:
    """Return nodes by class, for `validate`."""
    return {name: DescribedNode(info) for name, info in infos.items()}


def unlisted(nodes: Iterable[DescribedNode]) -> None:
    """Unused."""
