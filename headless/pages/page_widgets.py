"""The widgets of nodes in a workflow of the page: which a class has, and the values that the page keeps of them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Infos = Mapping[str, Mapping[str, Any]]  # class -> its entry in /object_info
CHOICE = "COMFY_DYNAMICCOMBO_V3"  # a combo whose options bring inputs of their own
ROWS = "COMFY_DYNAMICGROUP_V3"  # inputs in rows, and a widget for how many rows there are
GROWING = "COMFY_AUTOGROW_V3"  # inputs that are repeated; the node tells how often
BOX, SIDES = "BOUNDING_BOX", {"x": 0, "y": 0, "width": 512, "height": 512}
BUTTON = "BUTTON"  # this module's word for what the page keeps in a list and no node gets
CURVE = {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}
WIDGETS: dict[str, Any] = {  # types, and what the page sets at first where a class gives no default
    "INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False, "COMBO": None, "COLOR": "#000000", "COLORS": [],
    "CURVE": CURVE, "RANGE": {"min": 0, "max": 1}, BOX: SIDES, "BOUNDING_BOXES": [], "COMPOSITOR": {}, "MARKDOWN": "",
    "TEXTAREA": "", "CHART": {}, "GALLERIA": [], "PAINTER": "", "AUDIO_RECORD": "", "WEBCAM": "", "LOAD_3D": "",
    "LOAD_3D_ADVANCED": "", "IMAGECOMPARE": None, CHOICE: None, BUTTON: None,
}  # fmt: skip
NEWER: dict[str, Any] = {  # those that frontend 1.49 takes for sockets
    ROWS: 0, "VIDEO_EDIT": {}, "LIGHT_INFO_PREVIEW": [], "COMFY_BRANCH_INPUT_NAMES": [], "COMFY_BRANCH_SELECTOR": "",
    "CAMERA_ANGLE_VIEW": "camera",
}  # fmt: skip
AT_REST = {"IMAGECOMPARE": ["", ""]}  # widgets that no file keeps, and what the page sends of them
UNKEPT = ("RESOLUTION_PREVIEW", "AUDIO_UI", "CAMERA_INFO_STATE", "PREVIEW_3D")  # widgets that only show something
UNSENT = (ROWS, BUTTON, "CAMERA_ANGLE_VIEW")
UNLISTED = (BUTTON, ROWS, GROWING, "CAMERA_ANGLE_VIEW", "CAMERA_INFO_STATE", "COMFY_BRANCH_INPUT_NAMES")  # no inputs
SEEDS = ("seed", "noise_seed")
PICTURES = ("image_upload", "animated_image_upload", "video_upload")
UPLOADS = (*PICTURES, "audio_upload", "mesh_upload")
BUTTONS = {  # those that a node gets
    "upload 3d model": "upload3dmodel",
    "upload extra resources": "uploadExtraResources",
    "clear": "clear",
}
MOST_ROWS = 1000


@dataclass(frozen=True)
class Widget:
    """A widget of a class, or an input that may be one."""

    name: str
    kind: str
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, entry: Any) -> Widget:
        """Return what an input of /object_info stands for."""
        kind, settings = entry[0], entry[1] if len(entry) > 1 else {}
        if isinstance(kind, list):
            return cls(name, "COMBO", {**settings, "options": kind})
        return cls(name, str(settings.get("widgetType", kind)), settings)

    def is_drawn(self, slot: bool | None = None) -> bool:
        """Return whether the page draws a widget and keeps its value.

        Args:
            slot: whether the node's own input says that it is one; None where the node does not list it.
        """
        if self.settings.get("forceInput") or self.kind in UNKEPT:
            return False
        if self.kind in WIDGETS or slot is not None:
            return self.kind in WIDGETS or bool(slot)
        return self.kind in NEWER

    @property
    def is_sent(self) -> bool:
        """Return whether a node gets its value."""
        return self.kind not in UNSENT or self.name in BUTTONS

    @property
    def default(self) -> Any:
        """Return what the page sets at first: the default, or the first option."""
        options = self.settings.get("options")
        if self.kind == "COMBO" and "multi_select" in self.settings:
            return []
        if self.kind == ROWS:
            return self.settings.get("min", 0)
        if "default" in self.settings or not options:
            return self.settings.get("default", WIDGETS.get(self.kind, NEWER.get(self.kind)))
        return options[0]["key"] if self.kind == CHOICE else options[0]

    def behind(self, value: Any) -> list[Any]:
        """Return the values of the page's own that follow a value in a list."""
        if self.kind == BOX:
            sides = value if isinstance(value, dict) else self.default
            return [sides.get(side, at) if isinstance(sides, dict) else at for side, at in SIDES.items()]
        if self.kind == "AUDIO_RECORD":
            return [""]
        if self.kind not in ("INT", "FLOAT", "COMBO"):
            return []
        remote = self.settings.get("remote") if self.kind == "COMBO" else None
        found: list[Any] = [False] if isinstance(remote, dict) else []
        found += ["refresh"] if isinstance(remote, dict) and remote.get("refresh_button") else []
        if self.settings.get("control_after_generate", self.kind == "INT" and self.name in SEEDS):
            found += ["fixed", ""] if self.kind == "COMBO" else ["fixed"]
        return found

    def brought(self, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the inputs that a value brings, with how their names begin: those of an option, or of each row."""
        if self.kind == CHOICE:
            options = [option.get("inputs") for option in self.settings.get("options", []) if option["key"] == value]
            yield f"{self.name}.", options[0] if options else None
        if self.kind == ROWS:
            asked = int(value) if isinstance(value, (int, float)) and abs(value) < MOST_ROWS else 0
            for row in range(max(asked, self.settings.get("min", 0))):
                yield f"{self.name}.{row}.", self.settings.get("template")


Found = dict[str, tuple[Widget, Any]]
Slots = Mapping[str, bool]  # the inputs that a node lists, and whether each is a widget


def walk(inputs: Iterable[tuple[str, Any]], value_of: Callable[[Widget], Any], slots: Slots, before: str = "") -> Found:
    """Return the widgets among inputs with their values, by name; those that a choice or a row brings follow it."""
    found: Found = {}
    for name, entry in inputs:
        widget = Widget.of(before + name, entry)
        if widget.kind == GROWING:
            grown = {one.name: one for one in _grown(widget, slots)}
            found |= {name: (one, value_of(one)) for name, one in grown.items()}
        elif widget.is_drawn(slots.get(widget.name)):
            value = AT_REST.get(widget.kind, value_of(widget))
            found[widget.name] = widget, value
            for start, more in widget.brought(value):
                found |= walk(inputs_of({"input": more}), value_of, slots, start)
    return found


def _grown(widget: Widget, slots: Slots) -> Iterator[Widget]:
    specs = inputs_of(widget.settings.get("template") or {})
    for name, is_widget in slots.items():
        tail = name.removeprefix(f"{widget.name}.")
        if not is_widget or tail == name:
            continue
        fits = [entry for spec, entry in specs if len(specs) == 1 or spec == tail.rstrip("0123456789")]
        one = Widget.of(name, fits[0] if fits else ["*", {}])
        if one.is_drawn():
            yield one


def inputs_of(info: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the inputs of a class in their order."""
    parts = info.get("input") or {}
    return [entry for group in ("required", "optional") for entry in (parts.get(group) or {}).items()]


def takes_text(info: Mapping[str, Any], name: str) -> bool:
    """Return whether an input of a class takes text: what is written for it stays as it is."""
    return any(input == name and entry[0] == "STRING" for input, entry in inputs_of(info))


def types_of(infos: Infos, kind: str) -> dict[str, Any] | None:
    """Return the types of the inputs of a class, by name; None of a class that is not known."""
    return {name: entry[0] for name, entry in inputs_of(infos[kind])} if kind in infos else None


def page_inputs(info: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the inputs of a class in their order, with the buttons that the page puts among them."""
    inputs = inputs_of(info)
    widgets = [Widget.of(*entry) for entry in inputs]
    names, kinds = [widget.name for widget in widgets], [widget.kind for widget in widgets]
    uploads = [widget.kind == "COMBO" and any(map(widget.settings.get, PICTURES)) for widget in widgets]
    if ("image", "LOAD_3D") in zip(names, kinds, strict=True) and "model_file" in names:
        place = names.index("image")
        inputs[place:place] = [(name, [BUTTON, {"default": value}]) for name, value in BUTTONS.items()]
    if any(uploads) or info.get("name") == "LoadAudio":
        inputs.append(("upload", [BUTTON, {"default": "image" if any(uploads) else ""}]))
    if "WEBCAM" in kinds:
        inputs.append(("waiting for camera...", [BUTTON, {"default": "capture"}]))
    return inputs


def drawn(widget: Widget, value: Any) -> Any:
    """Return a value, with one of each choice in a dynamic prompt taken."""
    return chosen(value) if widget.settings.get("dynamicPrompts") and isinstance(value, str) else value


def undrawn(widget: Widget, value: Any) -> Any:
    """Return a value that `drawn` leads to: braces escaped, and no two characters that begin a comment."""
    if not (widget.settings.get("dynamicPrompts") and isinstance(value, str)):
        return value
    return re.sub(r"/(?=[/*])", "{/}", re.sub(r"(?<!\\)([{}])", r"\\\1", value))


def chosen(text: str) -> str:
    """Return a prompt without comments, with one of each `{this|that}` taken at random."""
    text = "".join(_outside_comments(text))
    open_choices: list[list[str]] = [[""]]  # the parts of each choice around this place; outermost the text itself
    for token in re.findall(r"\\[\s\S]|[{|}]|[^\\{|}]+|\\", text):
        parts = open_choices[-1]
        if token == "{":
            open_choices.append([""])
        elif token == "|" and len(open_choices) > 1:
            parts.append("")
        elif token == "}" and len(open_choices) > 1:
            open_choices.pop()
            open_choices[-1][-1] += random.choice(parts)
        else:
            parts[-1] += token[1:] if token in ("\\{", "\\}", "\\|") else token
    while len(open_choices) > 1:  # never closed
        parts = open_choices.pop()
        open_choices[-1][-1] += random.choice(parts)
    return open_choices[0][0]


def _outside_comments(text: str) -> Iterator[str]:
    """Yield what is in no comment; where one never ends, those after it do not either, and are not looked for."""
    place, ending = 0, True
    while found := re.compile(r"/\*|//.*" if ending else "//.*").search(text, place):
        yield text[place : found.start()]
        place = found.end()
        if found[0] == "/*":
            end = text.find("*/", place)
            ending = end >= 0
            if ending:
                place = end + 2
            else:
                yield "/*"
    yield text[place:]
