"""The values that the page keeps of a node's widgets, by name or as a list, matched with the widgets of its class."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from .page_graph import PageNode, wrong
from .page_widgets import (
    AT_REST,
    BOX,
    NEWER,
    SIDES,
    UNKEPT,
    WIDGETS,
    Found,
    Slots,
    Widget,
    inputs_of,
    page_inputs,
    walk,
)

PLACE = "widgets_values["  # how the name of a value begins that has none
COMBO_BY_HAND = "CustomCombo"  # the page makes its options, and an index of the choice among them
PAGE_ONLY = ("upload", "control_after_generate", "control_filter_list", "Auto-refresh after generation")


def widget_values(node: PageNode, info: Mapping[str, Any] | None) -> Found:
    """Return the widgets of a node by name, with what the page keeps of them.

    Raises PromptError where a list does not fit the widgets.

    Args:
        info: of its class; None where it is not known, and every value is taken as it stands.
    """
    kept = node.data.get("widgets_values")
    named = kept if isinstance(kept, dict) else node.data.get("widgets_values_named")
    values = kept if isinstance(kept, list) else []
    if info is None:
        by_place = {f"{PLACE}{place}]": value for place, value in enumerate(values)}
        return {name: (_made(name), value) for name, value in (named if isinstance(named, dict) else by_place).items()}
    if not isinstance(named, dict):
        return _listed(node, info, values)
    found = walk(page_inputs(info), lambda widget: named.get(widget.name, widget.default), slots_of(node))
    return found if named is kept else found | _more_named(named, found)


def slots_of(node: PageNode) -> Slots:
    """Return the inputs of a node, and whether each is a widget."""
    return {str(entry.get("name")): "widget" in entry for entry in node.inputs}


def _made(name: str) -> Widget:
    """Return a widget that no class declares: the page's own code has made it."""
    return Widget(name, "*", {})


def _more_named(named: Mapping[str, Any], found: Found) -> Found:
    """Return the values by name that belong to no widget of the class, less those that only the page needs."""
    own = {*PAGE_ONLY, *found}
    for name, (widget, value) in found.items():
        control = widget.settings.get("control_after_generate")
        own |= {control} if isinstance(control, str) else set()
        own |= {*SIDES} if widget.kind == BOX else {"view"} if widget.kind == "CAMERA_ANGLE_VIEW" else set()
        own |= {f"{name}.{number}" for number in range(len(widget.behind(value)))}
    names = [name for name in named if re.sub(r"#\d+$", "", name) not in own]
    return {name: (_made(name), named[name]) for name in names}


def _listed(node: PageNode, info: Mapping[str, Any], values: list[Any]) -> Found:
    rest = list(values)

    def take(widget: Widget) -> Any:
        if widget.kind in AT_REST:  # frontend 1.49 leaves a hole for it
            del rest[: rest[:1] == [None]]
            return None
        value = rest.pop(0) if rest else widget.default
        del rest[: len(widget.behind(value))]
        return value

    found = walk(page_inputs(info), take, slots_of(node))
    _check(node, info, values, found, rest)
    if node.type == COMBO_BY_HAND:
        options = rest[1:] if rest[-1:] == [""] else [*rest[1:], ""]  # one more to fill in
        return found | {f"option{number}": (_made(f"option{number}"), one) for number, one in enumerate(options, 1)}
    if any(rest):
        logging.warning("node %s %s: its class has no widget for the last values: %r", node.id, node.type, rest)
    return found


def _check(node: PageNode, info: Mapping[str, Any], values: list[Any], found: Found, rest: list[Any]) -> None:
    """Raise PromptError for a list that cannot belong to the widgets."""
    slots = slots_of(node)
    linked = {str(entry.get("name")) for entry in node.inputs if entry.get("link") is not None}
    doubtful = [
        widget.name
        for widget in (Widget.of(*entry) for entry in inputs_of(info))
        if widget.kind not in (*WIDGETS, *NEWER, *UNKEPT)
        and (slots.get(widget.name) or widget.settings.get("socketless"))
    ]
    astray = [name for name, (widget, value) in found.items() if name not in linked and not _fits(widget, value)]
    if astray or (doubtful and rest):
        how = (
            f"{astray[0]!r} gets {found[astray[0]][1]!r:.40}" if astray else f"no one knows the widget {doubtful[0]!r}"
        )
        details = f"node {node.id} {node.type!r}: {len(values)} values, and {how}; save it again with a newer page"
        raise wrong("its values do not fit its widgets", details)


def _fits(widget: Widget, value: Any) -> bool:
    if widget.kind not in ("INT", "FLOAT"):
        return widget.kind != "BOOLEAN" or not isinstance(value, (list, dict))
    try:
        return value is None or isinstance(value, (int, float)) or not value or float(value) == float(value)
    except (TypeError, ValueError):
        return False
