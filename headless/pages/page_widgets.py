"""The widgets of nodes in a workflow of the page: which a class has, and the values that the page keeps of them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Infos = Mapping[str, Mapping[str, Any]]  # class -> its entry in /object_info
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COLORS", "CURVE", "BOUNDING_BOXES", "COMPOSITOR")
CHOICE = "COMFY_DYNAMICCOMBO_V3"  # a combo whose options bring inputs of their own
AT_REST = {"IMAGECOMPARE": ["", ""]}  # widgets that no file keeps, and what the page sends of them
PAGE_ONLY = ("upload", "control_after_generate")
SEEDS = ("seed", "noise_seed")
UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload", "mesh_upload")


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> Found:
    """Return the widgets of a node by name, from what the page keeps: values by name, or only a list of them."""
    kept, named = node.get("widgets_values"), node.get("widgets_values_named")
    if isinstance(kept, dict):
        return walk(inputs_of(info), lambda widget: kept.get(widget.name, widget.default))
    if isinstance(named, dict):
        found = walk(inputs_of(info), lambda widget: named.get(widget.name, widget.default))
        controls = {widget.settings.get("control_after_generate") for widget, _ in found.values()}
        own = {*PAGE_ONLY, *(name for name in controls if isinstance(name, str)), *found}
        made = {name: (Widget(name, "*", {}), value) for name, value in named.items() if name not in own}
        return found | made  # by the page's own code
    values = iter(kept if isinstance(kept, list) else [])

    def take(widget: Widget) -> Any:
        value = next(values, widget.default)
        for _ in range(widget.more):
            next(values, None)
        return value

    return walk(inputs_of(info), take)


@dataclass(frozen=True)
class Widget:
    """A widget of a class; `more` values of the page's own follow it in a list."""

    name: str
    kind: Any
    settings: Mapping[str, Any]

    @property
    def default(self) -> Any:
        """Return what the page sets at first: the default, or the first option."""
        options = self.kind if isinstance(self.kind, list) else self.settings.get("options")
        first = options[0] if options else None
        return self.settings.get("default", first["key"] if self.kind == CHOICE and first else first)

    @property
    def more(self) -> int:
        """Return how many values follow its own."""
        if self.kind == "COMBO" or isinstance(self.kind, list):
            uploads = any(self.settings.get(upload) for upload in UPLOADS)
        else:
            uploads = False
        after = self.settings.get("control_after_generate", self.kind == "INT" and self.name in SEEDS)
        return int(bool(after)) + int(uploads)


Found = dict[str, tuple[Widget, Any]]


def walk(inputs: Iterable[tuple[str, Any]], value_of: Callable[[Widget], Any], before: str = "") -> Found:
    """Return the widgets among inputs with their values, by name; those that a choice brings follow it."""
    found: Found = {}
    for name, entry in inputs:
        kind, settings = entry[0], entry[1] if len(entry) > 1 else {}
        widget = Widget(before + name, kind, settings)
        if isinstance(kind, str) and kind in AT_REST:
            found[widget.name] = widget, AT_REST[kind]
        elif kind == CHOICE:
            value = value_of(widget)
            found[widget.name] = widget, value
            brought = [option.get("inputs") for option in settings.get("options", []) if option["key"] == value]
            found |= walk(inputs_of({"input": brought[0] if brought else None}), value_of, f"{widget.name}.")
        elif is_widget(kind, settings):
            found[widget.name] = widget, value_of(widget)
    return found


def is_widget(kind: Any, settings: Mapping[str, Any]) -> bool:
    """Return whether an input is a widget."""
    return not settings.get("forceInput") and (isinstance(kind, list) or kind in WIDGETS or "widgetType" in settings)


def drawn(widget: Widget, value: Any) -> Any:
    """Return a value, with one of each choice in a dynamic prompt taken."""
    return chosen(value) if widget.settings.get("dynamicPrompts") and isinstance(value, str) else value


def inputs_of(info: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the inputs of a class in their order."""
    parts = info.get("input") or {}
    return [entry for group in ("required", "optional") for entry in (parts.get(group) or {}).items()]


def chosen(text: str) -> str:
    """Return a prompt without comments, with one of each `{this|that}` taken at random."""
    text = re.sub(r"/\*[\s\S]*?\*/|//.*", "", text)
    open_choices: list[list[str]] = [[""]]  # the parts of each choice around this place; outermost the text itself
    for token in re.findall(r"\\[{}]|[{|}]|[^\\{|}]+|\\", text):
        parts = open_choices[-1]
        if token == "{":
            open_choices.append([""])
        elif token == "|" and len(open_choices) > 1:
            parts.append("")
        elif token == "}" and len(open_choices) > 1:
            open_choices.pop()
            open_choices[-1][-1] += random.choice(parts)
        else:
            parts[-1] += token[1:] if token in ("\\{", "\\}") else token
    while len(open_choices) > 1:  # never closed
        parts = open_choices.pop()
        open_choices[-1][-1] += random.choice(parts)
    return open_choices[0][0]
