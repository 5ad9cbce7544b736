"""Write the page form of the example workflows from their API form: `python -m attention_patchbay.tools.examples`.

examples.json holds what the API form lacks: the note of each example, how large nodes are, and their groups.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..headless.engine.workflow import Prompt
from ..headless.pages.convert import depths_of, dumps, to_page
from ..headless.pages.page_widgets import Infos
from ..headless.pages.workflow_file import embedded_infos

FOLDER = Path(__file__).parents[1] / "example_workflows"
TEXTS = Path(__file__).with_suffix(".json")
NODE_TITLE, GROUP_TITLE = 30, 50  # pixels above a node, and above the first node of a group
GAP, EDGE, LANE = 60, 12, 24  # between nodes, around those of a group, between columns
NOTE_WIDTH, NOTE_LINE, NOTE_LETTERS = 320, 19, 38
SEEN = 1500  # pixels of the canvas that the columns should fit into
SCALES = 0.7, 0.9
UNTRIED = "**Not tried on the real weights.**"
Node = dict[str, Any]


def page_form(prompt: Prompt, texts: Mapping[str, Any], name: str, infos: Infos) -> dict[str, Any]:
    """Return the page form of an example in API format, with its note and groups."""
    page = _with_ids(to_page(prompt, infos), prompt)
    own = texts["examples"][name]
    note = _note(own, page["last_node_id"] + 1)
    groups = _grouped(page["nodes"], depths_of(prompt), texts, own)
    page["groups"], right = _placed(note, groups, texts)
    page["nodes"].append(note)
    page["last_node_id"] = note["id"]
    scale = min(max(round(SEEN / right, 2), SCALES[0]), SCALES[1])
    page["extra"] = {"ds": {"scale": scale, "offset": [100, 150]}}
    return page


def _with_ids(page: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Give the nodes the ids that they have in the API form, which the page counts anew."""
    ids = {number: int(id) for number, id in enumerate(prompt, 1)}
    for node in page["nodes"]:
        node["id"] = ids[node["id"]]
    for link in page["links"]:
        link[1], link[3] = ids[link[1]], ids[link[3]]
    page["last_node_id"] = max(ids.values())
    return page


def _note(own: Mapping[str, Any], id: int) -> Node:
    told = " ".join([*([UNTRIED] if own.get("untried") else []), *own["note"]])
    text = f"## {own['title']}\n\n{told}"
    lines = sum(len(part) // NOTE_LETTERS + 2 for part in text.split("\n\n"))
    node = {"id": id, "type": "MarkdownNote", "pos": [0, NODE_TITLE], "size": [NOTE_WIDTH, 40 + NOTE_LINE * lines]}
    node |= {"flags": {}, "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": "About", "properties": {}}
    node |= {"widgets_values": [text], "widgets_values_named": {"text": text}}
    return node | {"color": "#432", "bgcolor": "#653"}


def _grouped(
    nodes: list[Node], depths: Mapping[str, int], texts: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, list[Node]]:
    """Return the nodes by group, in each those first that others need."""
    of_class = {kind: group for group, kinds in texts["groups"].items() for kind in kinds}
    of_id = {id: group for group, ids in own.get("groups", {}).items() for id in ids}
    found: dict[str, list[Node]] = {}

    def rank(node: Node) -> tuple[bool, int]:
        return texts["sizes"][node["type"]][0] >= texts["wide"], depths[str(node["id"])]

    for node in sorted(nodes, key=rank):
        found.setdefault(of_id.get(str(node["id"])) or of_class.get(node["type"], "Patch"), []).append(node)
    return found


def _placed(note: Node, groups: Mapping[str, list[Node]], texts: Mapping[str, Any]) -> tuple[list[Node], int]:
    """Place the nodes in columns of groups, and return the groups as the page keeps them, and where the last ends."""
    boxes: list[Node] = []
    left, top = 0, NODE_TITLE + note["size"][1] + EDGE * 2
    for column in texts["columns"]:
        there = [name for name in column if name in groups]
        if not there:
            continue
        right = left + (NOTE_WIDTH if left == 0 else 0)
        for name in there:
            box = [left, top, *_filled(groups[name], left, top, texts["sizes"], texts["rows"].get(name, 0))]
            boxes.append({"id": len(boxes) + 1, "title": name, "bounding": box, "color": "#3f789e", "flags": {}})
            right, top = max(right, left + box[2]), top + box[3] + EDGE
        left, top = right + LANE, 0
    return boxes, left - LANE


def _filled(nodes: list[Node], left: int, top: int, sizes: Mapping[str, list[int]], row: int) -> list[int]:
    """Place the nodes of a group in rows as wide as `row`, or as its widest node, and return its width and height."""
    limit = max(row, *(sizes[node["type"]][0] for node in nodes))
    x, y, high, right = EDGE, GROUP_TITLE + NODE_TITLE, 0, 0
    for node in nodes:
        width, height = sizes[node["type"]]
        if x > EDGE and x + width > EDGE + limit:
            x, y, high = EDGE, y + high + GAP, 0
        node["pos"], node["size"] = [left + x, top + y], [width, height]
        x, high, right = x + width + EDGE, max(high, height), max(right, x + width + EDGE)
    return [right, y + high + EDGE]


def written() -> Iterator[tuple[Path, str]]:
    """Yield the file of each example's page form, and what belongs into it."""
    texts = json.loads(TEXTS.read_text())
    infos = embedded_infos() | texts["infos"]
    for path in sorted((FOLDER / "api").glob("*.json")):
        page = page_form(json.loads(path.read_text()), texts, path.stem, infos)
        yield FOLDER / path.name, dumps(page)


if __name__ == "__main__":
    for path, text in written():
        path.write_text(text)
