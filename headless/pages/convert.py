"""Workflows from the page's own format to the API format, as the page sends them, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..engine.validate import is_link
from ..engine.workflow import Prompt
from .page_graph import Page, PageNode, Shown, Value, wrong
from .page_widgets import AT_REST, Found, Infos, drawn, inputs_of, walk, widget_values

WIDE, HIGH, ROW, HEAD = 340, 80, 26, 60  # of a node in pixels
OPEN = -1  # depth of a node whose sources are looked at


def is_page_format(data: Any) -> bool:
    """Return whether data is a workflow in the page's own format."""
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
            "inputs": _inputs(page, node, infos),
            "class_type": node.type,
            "_meta": {"title": node.data.get("title") or infos[node.type].get("display_name") or node.type},
        }
    for node_inputs in (entry["inputs"] for entry in prompt.values()):
        for name in [name for name, value in node_inputs.items() if is_link(value) and value[0] not in prompt]:
            del node_inputs[name]
    return prompt


def _inputs(page: Page, node: PageNode, infos: Infos) -> dict[str, Any]:
    found = {name: _boxed(drawn(*part)) for name, part in _widgets(node, infos).items()}
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
    return found


def _widgets(node: PageNode, infos: Infos) -> Found:
    return widget_values(node.data, infos.get(node.type, {}))


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
