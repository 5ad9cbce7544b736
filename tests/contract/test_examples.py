"""Check the example workflows: both forms say the same, nothing overlaps, and what can run here runs."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.catalog import catalog
from PIL import Image

from ..examples import EXAMPLES, FOLDER, NEEDING_MODELS, RUNNABLE
from ..released import RELEASED

NODES = catalog()
SEED_CONTROL = ("fixed", "increment", "decrement", "randomize")
TITLE = 30  # pixels above a node
NOTE = "MarkdownNote"
UNTRIED = "**Not tried on the real weights.**"

each = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
runnable = pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)


def api_form(path: Path) -> dict[str, Any]:
    return json.loads((path.parent / "api" / path.name).read_text())


def without_notes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in workflow["nodes"] if node["type"] != NOTE]


def note(path: Path) -> str:
    (text,) = [node["widgets_values"][0] for node in json.loads(path.read_text())["nodes"] if node["type"] == NOTE]
    return text


def as_api(workflow: dict[str, Any]) -> dict[str, Any]:
    """Turn a workflow of the page into class and inputs by node id."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    api = {}
    for node in without_notes(workflow):
        given = NODES[node["type"]].GET_NODE_INFO_V1()["input"]
        infos = given["required"] | given.get("optional", {})
        linked = {entry["name"]: sources[entry["link"]] for entry in node["inputs"] if entry["link"] is not None}
        values = iter(node.get("widgets_values", []))
        inputs: dict[str, Any] = {}
        for name, (kind, settings) in infos.items():
            if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                value = next(values, None)
                if value is None and name in given.get("optional", {}):
                    continue  # stored before the node had this input
                inputs[name] = value
                if settings.get("control_after_generate"):
                    assert next(values) == "fixed"
            if name in linked:
                inputs[name] = linked[name]
        assert list(values) == []
        api[str(node["id"])] = (node["type"], inputs)
    return api


@runnable
def test_both_forms_are_the_same_workflow(path: Path) -> None:
    wanted = {id: (node["class_type"], node["inputs"]) for id, node in api_form(path).items()}
    assert as_api(json.loads(path.read_text())) == wanted


@each
def test_no_node_lies_on_another(path: Path) -> None:
    boxes = [(*node["pos"], *node["size"]) for node in json.loads(path.read_text())["nodes"]]
    for (x, y, width, height), (x2, y2, width2, height2) in itertools.combinations(boxes, 2):
        apart = x + width <= x2 or x2 + width2 <= x or y + height <= y2 - TITLE or y2 + height2 <= y - TITLE
        assert apart, ((x, y), (x2, y2))


@each
def test_a_note_says_what_it_is_for_and_what_to_try(path: Path) -> None:
    """Each sentence ends a line, or stands before a capital letter."""
    title, _, told = note(path).partition("\n\n")
    assert re.fullmatch(r"## .{4,60}", title)
    assert len(re.findall(r"\.(?:\*\*)?(?=$| [A-Z])", told)) >= 3
    assert (UNTRIED in told) == (path in NEEDING_MODELS)
    nodes = without_notes(json.loads(path.read_text()))
    names = {entry["name"] for node in nodes for entry in node["inputs"] if "widget" in entry}
    titles = {node["title"] for node in nodes if "title" in node}
    marks = [*(f"`{name}`" for name in names), *(f"*{title}*" for title in titles)]
    assert any(mark in told for mark in marks)


@each
def test_groups_name_the_parts_from_left_to_right(path: Path) -> None:
    """Each node lies in one group, and no link leads to a node further left."""
    workflow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in without_notes(workflow)}
    assert len({group["title"] for group in workflow["groups"]}) == len(workflow["groups"]) >= 2
    for node in nodes.values():
        (x, y), (width, height) = node["pos"], node["size"]
        around = [
            left <= x and top <= y - TITLE and x + width <= left + wide and y + height <= top + high
            for left, top, wide, high in (group["bounding"] for group in workflow["groups"])
        ]
        assert sum(around) == 1, node["type"]
    assert [link for link in workflow["links"] if nodes[link[3]]["pos"][0] < nodes[link[1]]["pos"][0]] == []


@each
def test_most_of_it_is_seen_when_it_opens(path: Path) -> None:
    workflow = json.loads(path.read_text())
    scale, offset = workflow["extra"]["ds"]["scale"], workflow["extra"]["ds"]["offset"]
    assert 0.7 <= scale <= 0.9
    shown = [
        (node["pos"][0] + offset[0]) * scale < 1500 and (node["pos"][1] + offset[1]) * scale < 950
        for node in workflow["nodes"]
    ]
    assert sum(shown) > 0.75 * len(shown) and min(node["pos"] for node in workflow["nodes"]) == [0, TITLE]


@each
def test_the_thumbnail_is_small(path: Path) -> None:
    thumbnail = path.with_suffix(".jpg")
    assert thumbnail.stat().st_size < 60_000
    with Image.open(thumbnail) as image:
        assert image.format == "JPEG" and image.width >= 256


@pytest.mark.parametrize("path", NEEDING_MODELS, ids=lambda path: path.stem)
def test_what_needs_models_is_the_same_in_both_forms_and_says_that_it_was_not_tried(path: Path) -> None:
    workflow, wanted = json.loads(path.read_text()), api_form(path)
    assert note(path).splitlines()[2].startswith(UNTRIED)
    found = {str(node["id"]): node for node in without_notes(workflow)}
    assert {id: node["type"] for id, node in found.items()} == {id: node["class_type"] for id, node in wanted.items()}
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    for id, node in found.items():
        linked = {one["name"]: sources[one["link"]] for one in node["inputs"] if one["link"] is not None}
        values = node.get("widgets_values_named", {})
        assert linked | {name: values[name] for name in wanted[id]["inputs"].keys() - linked} == wanted[id]["inputs"]
        if id_class := NODES.get(node["type"]):
            assert wanted[id]["inputs"].keys() >= id_class.GET_NODE_INFO_V1()["input"]["required"].keys()


@runnable
def test_it_runs_in_the_embedded_host(path: Path, tmp_path: Path) -> None:
    workflow = api_form(path)
    (sampler,) = [node for node in workflow.values() if node["class_type"] == "KSampler"]
    sampler["inputs"]["steps"] = 2
    (latent,) = [node for node in workflow.values() if node["class_type"] == "EmptyLatentImage"]
    run = Executor(NODES, Session(Folders(output=tmp_path))).run(workflow)
    assert sorted(id for id in run.ran if id in workflow) == sorted(workflow)
    compared = any(node["class_type"] == "PatchbayCompare" for node in workflow.values())
    assert (len(run.ran) > len(workflow)) == compared
    pictures = 4 if path.stem == "attention_maps_heatmap" else latent["inputs"]["batch_size"]  # 3 maps and a sheet
    assert len(list(tmp_path.rglob("*.png"))) == pictures


def test_every_released_node_is_in_an_example() -> None:
    assert {node["class_type"] for path in EXAMPLES for node in api_form(path).values()} >= RELEASED


def test_every_example_has_both_forms() -> None:
    assert {path.name for path in EXAMPLES} == {path.name for path in (FOLDER / "api").iterdir()}
