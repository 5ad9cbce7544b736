"""Nodes of a ComfyUI as it describes them in /object_info, to check workflows against without having them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .page_widgets import UPLOADS, Infos, inputs_of

OWN = "Patchbay"  # how the classes of this pack begin
FILES = "lora_name"  # the input of nodes of this pack whose options are files of the server
OPEN = "COMFY_"  # types of inputs that come as others, by rules that only the node knows
LOOKED_UP = (*UPLOADS, "file_upload", "remote")  # options that the server looks up when it runs the node
MADE = {("CustomCombo", "choice")}  # options that the page makes


@dataclass(frozen=True)
class DescribedInput:
    """An input of a described node."""

    id: str
    optional: bool
    type: str
    settings: dict[str, Any]

    def info(self) -> tuple[str, Mapping[str, Any]]:
        """Return its type and settings."""
        return self.type, self.settings


@dataclass(frozen=True)
class DescribedOutput:
    """An output of a described node."""

    io_type: str


class DescribedNode:
    """A node by its entry in /object_info; it answers what `validate` asks of a class."""

    def __init__(self, name: str, info: Mapping[str, Any]) -> None:
        required = (info.get("input") or {}).get("required") or {}
        entries = [(input, entry) for input, entry in inputs_of(info) if not _is_open(entry[0])]
        self.inputs = [_input(name, input, entry, input not in required) for input, entry in entries]
        self.accept_all_inputs = len(entries) < len(inputs_of(info))
        self.outputs = [DescribedOutput(_type(kind)) for kind in info.get("output") or []]
        self.is_output_node = bool(info.get("output_node"))

    def checked_by(self, cls: Any) -> DescribedNode:
        """Return it with the check of a class."""
        if hasattr(cls, "validate_inputs"):
            self.validate_inputs = cls.validate_inputs
        return self

    def GET_SCHEMA(self) -> DescribedNode:
        """Return what describes the node: itself."""
        return self


def _is_open(kind: Any) -> bool:
    return isinstance(kind, str) and kind.startswith(OPEN)


def _input(node: str, name: str, entry: Any, optional: bool) -> DescribedInput:
    kind, settings = entry[0], dict(entry[1]) if len(entry) > 1 else {}
    if isinstance(kind, list):
        settings["options"] = kind
    if (node, name) in MADE or any(settings.get(sign) for sign in LOOKED_UP):
        settings.pop("options", None)
    return DescribedInput(name, optional, _type(kind), settings)


def _type(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else "*" if _is_open(kind) else str(kind)


def described(infos: Infos, choices: bool = True) -> dict[str, Any]:
    """Return the nodes of a ComfyUI by class, for `validate`; those of this pack check their own values.

    Args:
        choices: hold values against the choices of the nodes; where the workflow runs there may be others.
    """
    from ..engine.catalog import catalog

    found: dict[str, Any] = {name: DescribedNode(name, info) for name, info in infos.items()}
    for name, cls in catalog().items():
        if name in found and name.startswith(OWN):
            named = FILES in dict(inputs_of(infos[name]))
            found[name] = found[name].checked_by(cls) if named else cls
    for node in () if choices else found.values():
        for input in node.inputs if isinstance(node, DescribedNode) else ():
            input.settings.pop("options", None)
    return found
