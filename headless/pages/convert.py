"""Workflows from the page's own format to the API format, as the page sends them, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..engine.validate import is_link
from ..engine.workflow import Prompt
from .kept_values import COMBO_BY_HAND, widget_values
from .page_graph import Page, PageNode, Shown, Value, wrong
from .page_widgets import AT_REST, ROWS, UNLISTED, Found, Infos, Widget, drawn, inputs_of, page_inputs, undrawn, walk
from .replacements import INPUT, SAVERS, filled

WIDE, HIGH, ROW, HEAD = 340, 80, 26, 60  # of a node in pixels
OPEN = -1  # depth of a node whose sources are looked at


def is_page_format(data: Any) -> bool:
    """Return whether data is a workflow in the page's own format."""
    return isinstance(data, dict) and isinstance(data.get("nodes"), list)


def to_api(workflow: Mapping[str, Any], infos: Infos, unknown: bool = False) -> Prompt:
    """Return the API format of a page's workflow.

    Raises PromptError for nodes that `infos` lacks, for values that fit no widget, and for links that lead nowhere.

    Args:
        unknown: let nodes that `infos` lacks stand, with their values as the page keeps them. Nothing can run that.
    """
    page = Page(workflow)
    running = page.running()
    strangers = [] if unknown else [f"node {node.id} {node.type!r}" for node in running if node.type not in infos]
    if strangers:
        what, them = ("an unknown node", "it") if len(strangers) == 1 else ("unknown nodes", "them")
        raise wrong(what, f"{', '.join(strangers)}; ask the server that has {them} (--server)")
    prompt: Prompt = {}
    for node in running:
        shown = node.data.get("title") or infos.get(node.type, {}).get("display_name") or node.type
        prompt[node.id] = {"inputs": _inputs(page, node, infos), "class_type": node.type, "_meta": {"title": shown}}
    for node_inputs in (entry["inputs"] for entry in prompt.values()):
        for name in [name for name, value in node_inputs.items() if is_link(value) and value[0] not in prompt]:
            del node_inputs[name]
    return prompt


def _inputs(page: Page, node: PageNode, infos: Infos) -> dict[str, Any]:
    widgets = _widgets(node, infos)
    found = {
        name: _sent(page, widget, drawn(widget, value)) for name, (widget, value) in widgets.items() if widget.is_sent
    }
    for slot, entry in enumerate(node.inputs):
        source = page.source(node, slot) if entry.get("link") is not None else None
        name = str(entry.get("name"))
        if isinstance(source, Value):
            found[name] = _boxed(source.value)
        elif isinstance(source, Shown):
            shown = _widgets(source.node, infos).get(source.name)
            found |= {} if shown is None else {name: _boxed(shown[1])}
        elif source is not None:
            found[name] = [source[0].id, source[1]]
    if node.type in SAVERS and INPUT in found:
        found[INPUT] = filled(found[INPUT], page, infos)
    if node.type == COMBO_BY_HAND and not isinstance(found.get("choice"), list):
        options = [value for name, value in found.items() if name.startswith("option")]
        found["index"] = options.index(found["choice"]) if found.get("choice") in options else -1
    return found


def _widgets(node: PageNode, infos: Infos) -> Found:
    return widget_values(node, infos.get(node.type))


def _sent(page: Page, widget: Widget, value: Any) -> Any:
    """Return a value as the page sends that of a widget; a newer page than 1.49 also tells what a curve is."""
    if widget.kind != "CURVE" or not isinstance(value, dict):
        return _boxed(value)
    extra = page.root.data.get("extra")
    version = re.findall(r"\d+", str(extra.get("frontendVersion", ""))) if isinstance(extra, dict) else []
    older = len(version) > 0 and tuple(map(int, version[:2])) < (1, 50)
    return value if older else {"__type__": "CURVE", "__value__": value}


def _boxed(value: Any) -> Any:
    """Return a value so that a list is not taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


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
    given = entry["inputs"]
    constants = {name: _unboxed(value) for name, value in given.items() if not is_link(value)}
    found = walk(
        page_inputs(info), lambda widget: undrawn(widget, _given(widget, constants)), dict.fromkeys(constants, True)
    )
    kept = [(widget, value) for widget, value in found.values() if widget.kind not in AT_REST]
    made = {name: value for name, value in constants.items() if name not in found}
    values = [one for widget, value in kept for one in (value, *widget.behind(value))] + [*made.values()]
    types = {name: _slot_type(kind[0]) for name, kind in inputs_of(info)}
    types |= {name: widget.kind for name, (widget, _) in found.items() if name not in types}
    types |= {name: "*" for name, value in given.items() if name not in types and is_link(value)}
    inputs = [
        {"name": name, "type": type, "link": None} | ({"widget": {"name": name}} if name in found else {})
        for name, type in types.items()
        if type not in UNLISTED
    ]
    outputs = zip(info.get("output_name") or info.get("output") or [], info.get("output") or [], strict=False)
    node = {"id": number, "type": entry["class_type"], "pos": place, "size": [WIDE - 60, _height(info)], "flags": {}}
    node |= {"order": number - 1, "mode": 0, "inputs": inputs, "properties": {}, "widgets_values": values}
    node["widgets_values_named"] = {widget.name: value for widget, value in kept} | made
    node["outputs"] = [{"name": name, "type": kind, "links": []} for name, kind in outputs]
    meta = entry.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return node | ({"title": title} if isinstance(title, str) else {})


def _given(widget: Widget, constants: Mapping[str, Any]) -> Any:
    """Return the value of a widget; the default where nothing is given, or a link."""
    if widget.kind != ROWS:
        return constants.get(widget.name, widget.default)
    start = f"{widget.name}."
    rows = [name.removeprefix(start).partition(".")[0] for name in constants if name.startswith(start)]
    return max([widget.default, *(int(row) + 1 for row in rows if row.isdecimal())])


def _slot_type(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else str(kind)


def _unboxed(value: Any) -> Any:
    """Return a constant of the API format as the page keeps it."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def _height(info: Mapping[str, Any]) -> int:
    return HIGH + ROW * (len(inputs_of(info)) + len(info.get("output") or []))


def depths_of(prompt: Prompt) -> dict[str, int]:
    """Return how many nodes are before each node, on the longest way; links that close a circle do not count."""
    depth: dict[str, int] = {}
    for first in prompt:
        stack = [first]
        while stack:
            id = stack[-1]
            sources = [value[0] for value in prompt[id]["inputs"].values() if is_link(value) and value[0] in prompt]
            waiting = [source for source in sources if source not in depth]
            if id not in depth and waiting:
                depth[id] = OPEN
                stack += waiting
                continue
            if depth.get(id, OPEN) == OPEN:
                depth[id] = 1 + max((depth[source] for source in sources), default=OPEN)
            stack.pop()
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
