"""Workflows from the page's own format to the API format, as the page sends them, and back."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .page_graph import Page, PageNode, Value, wrong
from .prompt import Prompt
from .validate import is_link

Infos = Mapping[str, Mapping[str, Any]]  # class -> its entry in /object_info
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COLORS", "CURVE", "BOUNDING_BOXES", "COMPOSITOR")
CHOICE = "COMFY_DYNAMICCOMBO_V3"  # a combo whose options bring inputs of their own
AT_REST = {"IMAGECOMPARE": ["", ""]}  # widgets that no file keeps, and what the page sends of them
PAGE_ONLY = ("upload", "control_after_generate")
SEEDS = ("seed", "noise_seed")
UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload", "mesh_upload")
WIDE, HIGH, ROW, HEAD = 340, 80, 26, 60  # of a node in pixels


def is_page_format(data: Any) -> bool:
    """Tell whether data is a workflow in the page's own format."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def to_api(workflow: Mapping[str, Any], infos: Infos) -> Prompt:
    """Return the API format of a page's workflow.

    Raises PromptError for a node that `infos` lacks, and for links that lead nowhere.
    """
    page = Page(workflow)
    prompt: Prompt = {}
    for node in page.running():
        if node.type not in infos:
            raise wrong("an unknown node", f"node {node.id} {node.type!r}; ask the server that has it (--server)")
        prompt[node.id] = {
            "inputs": _inputs(page, node, infos[node.type]),
            "class_type": node.type,
            "_meta": {"title": node.data.get("title") or infos[node.type].get("display_name") or node.type},
        }
    for node_inputs in (entry["inputs"] for entry in prompt.values()):
        for name in [name for name, value in node_inputs.items() if is_link(value) and value[0] not in prompt]:
            del node_inputs[name]
    return prompt


def _inputs(page: Page, node: PageNode, info: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {name: _boxed(value) for name, value in widget_values(node.data, info).items()}
    for slot, entry in enumerate(node.inputs):
        source = page.source(node, slot) if entry.get("link") is not None else None
        if isinstance(source, Value):
            inputs[str(entry.get("name"))] = _boxed(source.value)
        elif source is not None:
            inputs[str(entry.get("name"))] = [source[0].id, source[1]]
    return inputs


def _boxed(value: Any) -> Any:
    """Return a value so that a list is not taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the widgets of a node by name, from what the page keeps: values by name, or only a list of them."""
    kept, named = node.get("widgets_values"), node.get("widgets_values_named")
    if isinstance(kept, dict):
        return _drawn(walk(inputs_of(info), lambda widget: kept.get(widget.name, widget.default)))
    if isinstance(named, dict):
        found = walk(inputs_of(info), lambda widget: named.get(widget.name, widget.default))
        controls = {widget.settings.get("control_after_generate") for widget, _ in found.values()}
        own = {*PAGE_ONLY, *(name for name in controls if isinstance(name, str)), *found}
        made = {name: value for name, value in named.items() if name not in own}  # by the page's own code
        return {**_drawn(found), **made}
    values = iter(kept if isinstance(kept, list) else [])

    def take(widget: Widget) -> Any:
        value = next(values, widget.default)
        for _ in range(widget.more):
            next(values, None)
        return value

    return _drawn(walk(inputs_of(info), take))


@dataclass(frozen=True)
class Widget:
    """A widget of a class; `more` values of the page's own follow it in a list."""

    name: str
    kind: Any
    settings: Mapping[str, Any]

    @property
    def default(self) -> Any:
        """Return what the page sets at first: the default, or the first option."""
        options = self.kind if isinstance(self.kind, list) else self.settings.get("options") or [None]
        first = options[0] if options else None
        return self.settings.get("default", first["key"] if self.kind == CHOICE else first)

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
            option = next((option for option in settings.get("options", []) if option["key"] == value), {})
            found |= walk(inputs_of({"input": option.get("inputs")}), value_of, f"{widget.name}.")
        elif is_widget(kind, settings):
            found[widget.name] = widget, value_of(widget)
    return found


def is_widget(kind: Any, settings: Mapping[str, Any]) -> bool:
    """Tell whether an input is a widget."""
    return not settings.get("forceInput") and (isinstance(kind, list) or kind in WIDGETS or "widgetType" in settings)


def _drawn(found: Found) -> dict[str, Any]:
    """Return the values, with one of each choice in dynamic prompts taken."""
    return {
        name: chosen(value) if widget.settings.get("dynamicPrompts") and isinstance(value, str) else value
        for name, (widget, value) in found.items()
    }


def inputs_of(info: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the inputs of a class in their order."""
    parts = info.get("input") or {}
    return [entry for group in ("required", "optional") for entry in (parts.get(group) or {}).items()]


# Dynamic prompts


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


# To the page


def to_page(prompt: Prompt, infos: Infos) -> dict[str, Any]:
    """Return the page's format of a workflow in API format, laid out in columns by depth.

    Raises PromptError for a node that `infos` lacks.
    """
    numbers = {id: number for number, id in enumerate(prompt, 1)}
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    places = _places(prompt, infos)
    for id, entry in prompt.items():
        info = infos.get(entry["class_type"])
        if info is None:
            raise wrong("an unknown node", f"node {id} {entry['class_type']!r}; ask the server that has it (--server)")
        node = _page_node(numbers[id], entry, info, places[id])
        for slot, name in enumerate(input["name"] for input in node["inputs"]):
            value = entry["inputs"].get(name)
            if is_link(value) and value[0] in numbers:
                kind = node["inputs"][slot]["type"]
                node["inputs"][slot]["link"] = len(links) + 1
                links.append([len(links) + 1, numbers[value[0]], value[1], numbers[id], slot, kind])
        nodes.append(node)
    by_number = {node["id"]: node for node in nodes}
    for link in links:
        outputs = by_number[link[1]]["outputs"]
        if link[2] < len(outputs):
            outputs[link[2]]["links"].append(link[0])
    last = {"last_node_id": len(nodes), "last_link_id": len(links)}
    return {**last, "nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def _page_node(number: int, entry: Mapping[str, Any], info: Mapping[str, Any], place: list[int]) -> dict[str, Any]:
    given, values = entry["inputs"], []
    found = walk(inputs_of(info), lambda widget: _unboxed(given.get(widget.name), widget.default))
    for widget, value in found.values():
        if not (isinstance(widget.kind, str) and widget.kind in AT_REST):
            values += [value, *("fixed", "image")[: widget.more]]
    types = {name: _slot_type(kind[0]) for name, kind in inputs_of(info)}
    types |= {name: _slot_type(widget.kind) for name, (widget, _) in found.items()}
    types |= {name: "*" for name, value in given.items() if name not in types and is_link(value)}
    inputs = [
        {"name": name, "type": type, "link": None} | ({"widget": {"name": name}} if name in found else {})
        for name, type in types.items()
    ]
    outputs = zip(info.get("output_name") or info.get("output") or [], info.get("output") or [], strict=False)
    node = {"id": number, "type": entry["class_type"], "pos": place, "size": [WIDE - 60, _height(info)], "flags": {}}
    node |= {"order": number - 1, "mode": 0, "inputs": inputs, "properties": {}, "widgets_values": values}
    node["outputs"] = [{"name": name, "type": kind, "links": []} for name, kind in outputs]
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return node | ({"title": title} if isinstance(title, str) else {})


def _slot_type(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else str(kind)


def _unboxed(value: Any, default: Any) -> Any:
    """Return a constant of the API format; the default where nothing is given, or a link."""
    if value is None or is_link(value):
        return default
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def _height(info: Mapping[str, Any]) -> int:
    return HIGH + ROW * (len(inputs_of(info)) + len(info.get("output") or []))


def depths_of(prompt: Prompt) -> dict[str, int]:
    """Return how many nodes are before each node, on the longest way."""
    depth = dict.fromkeys(prompt, 0)
    for _ in range(len(prompt)):
        before = dict(depth)
        for id, entry in prompt.items():
            sources = [value[0] for value in entry["inputs"].values() if is_link(value) and value[0] in depth]
            depth[id] = min(len(prompt), 1 + max((depth[source] for source in sources), default=-1))
        if depth == before:
            break
    return depth


def _places(prompt: Prompt, infos: Infos) -> dict[str, list[int]]:
    """Return where each node stands: a column behind those it needs."""
    depth = depths_of(prompt)
    bottom: dict[int, int] = {}
    places = {}
    for id, entry in prompt.items():
        column = depth[id]
        places[id] = [column * WIDE, bottom.get(column, 0)]
        bottom[column] = places[id][1] + _height(infos.get(entry["class_type"], {})) + HEAD
    return places


def dumps(data: Any) -> str:
    """Return JSON text as the page writes it."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
