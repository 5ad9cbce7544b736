"""What a ComfyUI says of its nodes in /object_info: read with care, as any pack may have had a hand in it."""

from __future__ import annotations

import logging
from typing import Any

from ..engine.errors import Failure
from .page_widgets import CHOICE, GROWING, ROWS, Infos

DEEPEST = 8  # choices within choices


def node_infos(data: Any, where: str) -> Infos:
    """Return the nodes by class; one that describes itself in another form is left out with a warning.

    Raises Failure when nothing is understood.
    """
    if not isinstance(data, dict):
        data = {}
    found = {name: info for name, info in data.items() if _is_node(info)}
    if not found:
        raise Failure(f"{where}: no nodes; it has to be what URL/object_info of the ComfyUI gives")
    for name in sorted(set(data) - set(found)):
        logging.warning("%s: the node %s describes itself in a form that is not known, and is left out", where, name)
    return found


def _is_node(info: Any) -> bool:
    if not isinstance(info, dict) or not _are_inputs(info.get("input"), 0):
        return False
    names, outputs = info.get("output_name") or [], info.get("output") or []
    return isinstance(names, list) and isinstance(outputs, list)


def _are_inputs(groups: Any, depth: int) -> bool:
    if groups is None:
        return True
    if not isinstance(groups, dict) or depth > DEEPEST:
        return False
    parts = [groups.get(group) or {} for group in ("required", "optional")]
    return all(isinstance(part, dict) and all(_is_input(entry, depth) for entry in part.values()) for part in parts)


def _is_input(entry: Any, depth: int) -> bool:
    if not isinstance(entry, list) or not entry or not isinstance(entry[0], (str, list)):
        return False
    settings = entry[1] if len(entry) > 1 else {}
    if not isinstance(settings, dict) or not isinstance(settings.get("options", []), list):
        return False
    bounds = [settings[name] for name in ("min", "max") if name in settings]
    if not all(isinstance(bound, (int, float)) for bound in bounds):
        return False
    if entry[0] in ((ROWS, GROWING) if isinstance(entry[0], str) else ()):
        template = settings.get("template") or {}
        return isinstance(template, dict) and _are_inputs(
            template if entry[0] == ROWS else template.get("input"), depth + 1
        )
    choices = settings.get("options", []) if entry[0] == CHOICE else []
    return all(isinstance(one, dict) and "key" in one and _are_inputs(one.get("inputs"), depth + 1) for one in choices)
