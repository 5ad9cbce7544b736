"""Workflows of the page in API format: as the real page (frontend 1.49.6) sent them."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.workflow import PromptError
from attention_patchbay.headless.pages.convert import is_page_format, to_api, to_page
from attention_patchbay.headless.pages.page_widgets import chosen
from hypothesis import given
from hypothesis import strategies as st

from ...examples import RUNNABLE, api_form

ROOT = Path(__file__).parents[3]
with gzip.open(ROOT / "tests" / "data" / "page_graphs.json.gz", "rt") as file:
    RECORDED: dict[str, dict[str, Any]] = json.load(file)
INFOS = {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items()}


def bare(prompt: dict[str, Any]) -> dict[str, Any]:
    return {id: (node["class_type"], node["inputs"]) for id, node in prompt.items()}


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_examples_become_what_the_page_sends(path: Path) -> None:
    wanted = json.loads(api_form(path).read_text())
    workflow = json.loads(path.read_text())
    assert is_page_format(workflow) and not is_page_format(wanted)
    assert bare(to_api(workflow, INFOS)) == bare(wanted)


@pytest.mark.parametrize("name", RECORDED)
def test_graphs_become_what_the_page_sent(name: str) -> None:
    """Muted, bypassed, rerouted, primitive, in subgraphs of subgraphs: recorded from the page itself."""
    found = to_api(RECORDED[name]["page"], INFOS)
    assert bare(found) == bare(RECORDED[name]["api"])
    assert {id: node["_meta"] for id, node in found.items()} == {
        id: node["_meta"] for id, node in RECORDED[name]["api"].items()
    }


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_the_way_back_leads_to_the_same_workflow(path: Path) -> None:
    prompt = json.loads(api_form(path).read_text())
    page = to_page(prompt, INFOS)
    numbers = {id: str(number) for number, id in enumerate(prompt, 1)}

    def renamed(value: Any) -> Any:
        return [numbers[value[0]], value[1]] if isinstance(value, list) else value

    expected = {
        numbers[id]: (node["class_type"], {name: renamed(value) for name, value in node["inputs"].items()})
        for id, node in prompt.items()
    }
    assert bare(to_api(page, INFOS)) == expected
    places = [tuple(node["pos"]) for node in page["nodes"]]
    assert len(set(places)) == len(places)


CODEC = {"required": {"crf": ["INT", {"default": 23}], "codec": [["h264", "av1"], {}]}, "optional": {"x": ["IMAGE"]}}
OWN = {
    "Save": {
        "input": {
            "required": {
                "image": ["IMAGE", {}],
                "format": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {"options": [{"key": "auto", "inputs": {"required": {}}}, {"key": "mp4", "inputs": CODEC}]},
                ],
                "fill": ["COLOR", {"default": "#000000"}],
                "view": ["IMAGECOMPARE", {"socketless": True}],
                "seed": ["INT", {"default": 1, "control_after_generate": "fixed"}],
            }
        },
        "output": [],
        "output_node": True,
    },
    "Text": {
        "input": {"required": {"text": ["STRING", {"dynamicPrompts": True}], "size": ["INT", {"default": 8}]}},
        "output": ["IMAGE"],
    },
    "Show": {"input": {"required": {"source": ["*", {}]}}, "output": [], "output_node": True},
}
VIEW = {"view": {"__value__": ["", ""]}}


def one(type: str, **more: Any) -> dict[str, Any]:
    """Return the inputs of a workflow of one node."""
    return to_api({"nodes": [{"id": 1, "type": type, "inputs": [], **more}], "links": []}, OWN)["1"]["inputs"]


def test_a_choice_brings_widgets() -> None:
    kept: list[Any] = ["mp4", 30, "av1", "#123456", 5, "fixed"]
    expected = {"format": "mp4", "format.crf": 30, "format.codec": "av1", "fill": "#123456", "seed": 5, **VIEW}
    assert one("Save", widgets_values=kept) == expected
    assert one("Save", widgets_values=["auto", "#123456", 5]) == {
        "format": "auto",
        "fill": "#123456",
        "seed": 5,
        **VIEW,
    }
    assert one("Save") == {"format": "auto", "fill": "#000000", "seed": 1, **VIEW}
    assert one("Save", widgets_values=["mp4"])["format.codec"] == "h264"  # the first
    assert one("Save", widgets_values=["gone", "#123456", 5])["fill"] == "#123456"


def test_values_by_name_come_before_the_list() -> None:
    named = {"format": "mp4", "format.crf": 9, "fill": "#1", "seed": 2, "fixed": "randomize", "made": "by the page"}
    found = one("Save", widgets_values=["auto"], widgets_values_named=named)
    expected = {"format": "mp4", "format.crf": 9, "format.codec": "h264", "fill": "#1", "seed": 2, **VIEW}
    assert found == {**expected, "made": "by the page"}


def test_the_widgets_of_a_choice_find_back() -> None:
    inputs = {"image": ["2", 0], "format": "mp4", "format.crf": 9, "format.codec": "av1", "format.x": ["2", 0]}
    inputs |= {"fill": "#1", "seed": ["2", 0], **VIEW}
    text = {"class_type": "Text", "inputs": {"text": "a", "size": 8}}
    prompt = {"1": {"class_type": "Save", "inputs": inputs}, "2": text}
    assert bare(to_api(to_page(prompt, OWN), OWN)) == bare(prompt)


def older(values: list[Any], listed: list[str]) -> dict[str, Any]:
    """Return a subgraph that shows two widgets, as older pages keep it: the node lists only some of its inputs."""
    shown = [{"name": "image", "type": "IMAGE"}, {"name": "words", "type": "STRING"}, {"name": "size", "type": "INT"}]
    inner = [
        {
            "id": 1,
            "type": "Text",
            "inputs": [
                {"name": "text", "link": 1, "widget": {"name": "text"}},
                {"name": "size", "link": 2, "widget": {"name": "size"}},
            ],
            "widgets_values": ["{inside}", 16],
        },
        {"id": 2, "type": "Show", "inputs": [{"name": "source", "link": 3}]},
        {"id": 3, "type": "Show", "inputs": [{"name": "source", "link": 4}]},
    ]
    ends = [(1, 1, 1, 0), (2, 2, 1, 1), (3, 2, 2, 0), (4, 0, 3, 0)]
    links = [
        {"id": id, "origin_id": -10, "origin_slot": slot, "target_id": node, "target_slot": at}
        for id, slot, node, at in ends
    ]
    names = {"image": 9, "words": None, "size": None}
    outer = [
        {"id": 7, "type": "S", "inputs": [{"name": n, "link": names[n]} for n in listed], "widgets_values": values},
        {"id": 8, "type": "Text", "inputs": [], "widgets_values": ["t", 1]},
    ]
    subgraph = {"id": "S", "inputs": shown, "outputs": [], "nodes": inner, "links": links}
    return {"nodes": outer, "links": [[9, 8, 0, 7, 0, "IMAGE"]], "definitions": {"subgraphs": [subgraph]}}


@pytest.mark.parametrize("listed", [["image"], ["size", "image"], ["image", "words", "size"]])
def test_widgets_that_a_subgraph_shows_are_found_by_name_and_place(listed: list[str]) -> None:
    found = to_api(older(["{on the node}", 32], listed), OWN)
    assert found["7:1"]["inputs"] == {"text": "{on the node}", "size": 32}  # shown text is no dynamic prompt
    assert found["7:2"]["inputs"] == {"source": 32} and found["7:3"]["inputs"] == {"source": ["8", 0]}
    inside = to_api(older([], listed), OWN)
    assert inside["7:1"]["inputs"] == {"text": "{inside}", "size": 16} and inside["7:2"]["inputs"] == {"source": 16}


def test_what_cannot_be_converted_is_named() -> None:
    workflow = {"nodes": [{"id": 3, "type": "NoSuchNode"}], "links": []}
    with pytest.raises(PromptError, match=r"an unknown node: node 3 'NoSuchNode'; ask the server"):
        to_api(workflow, INFOS)
    ring = {"id": 1, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 1}], "outputs": []}
    save = {"id": 2, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 2}]}
    round_and_round = {"nodes": [ring, save], "links": [[1, 1, 0, 1, 0, "*"], [2, 1, 0, 2, 0, "*"]]}
    with pytest.raises(PromptError, match="links go round in a circle"):
        to_api(round_and_round, INFOS)
    itself = {"id": "a", "nodes": [{"id": 1, "type": "a"}], "links": []}
    with pytest.raises(PromptError, match="subgraphs that hold themselves"):
        to_api({"nodes": [{"id": 1, "type": "a"}], "links": [], "definitions": {"subgraphs": [itself]}}, INFOS)
    with pytest.raises(PromptError, match=r"a link cannot be read: \[1, 2\]"):
        to_api({"nodes": [], "links": [[1, 2]]}, INFOS)


def test_dynamic_prompts_take_one_of_each_choice() -> None:
    assert {chosen("a {red|blue} {big|{tiny|small}} cat") for _ in range(300)} == {
        f"a {colour} {size} cat" for colour in ("red", "blue") for size in ("big", "tiny", "small")
    }
    assert chosen(r"a \{real\} brace | pipe // comment") == "a {real} brace | pipe "


def test_escapes_are_those_of_the_page() -> None:
    assert chosen(r"a \| b \x \\{c}") == r"a | b \x \\c"


@given(st.text("ab{|} /*", max_size=20))
def test_a_prompt_without_choices_finds_back(text: str) -> None:
    prompt = {"1": {"class_type": "Text", "inputs": {"text": text, "size": 8}}}
    assert bare(to_api(to_page(prompt, OWN), OWN)) == bare(prompt)


@given(st.text("ab{|}\\ /*", max_size=20))
def test_any_text_is_a_prompt(text: str) -> None:
    assert isinstance(chosen(text), str)


KEYS = ["nodes", "links", "id", "type", "mode", "inputs", "outputs", "link", "name", "widgets_values", "definitions"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6), max_size=3), JSON, JSON)
def test_any_data_is_converted_or_refused(nodes: Any, links: Any, definitions: Any) -> None:
    with contextlib.suppress(PromptError):
        to_api({"nodes": nodes, "links": links, "definitions": definitions}, INFOS)
