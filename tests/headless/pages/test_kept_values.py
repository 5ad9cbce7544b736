"""Values that the page keeps of widgets: nodes with every kind, as frontends 1.49.6 and 1.58.1 kept and sent them."""

from __future__ import annotations

import copy
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.engine.workflow import PromptError
from attention_patchbay.headless.pages.convert import to_api, to_page
from attention_patchbay.headless.pages.node_infos import node_infos

with gzip.open(Path(__file__).parents[2] / "data" / "page_widgets.json.gz", "rt") as file:
    RECORDED: dict[str, dict[str, Any]] = json.load(file)
NEWEST = [name for name in RECORDED if name.endswith("1.58.1")]


def infos_of(name: str) -> dict[str, Any]:
    info = RECORDED[name]["info"]
    return dict(node_infos({info["name"]: info}, "recorded"))


def nameless(workflow: dict[str, Any]) -> dict[str, Any]:
    """Return a workflow as older pages kept it: without the names of the values."""
    found = copy.deepcopy(workflow)
    for node in found["nodes"]:
        node.pop("widgets_values_named", None)
    return found


def sent(workflow: dict[str, Any], infos: dict[str, Any]) -> dict[str, Any]:
    (node,) = to_api(workflow, infos).values()
    return node["inputs"]


@pytest.mark.parametrize("name", RECORDED)
def test_values_are_sent_as_the_page_sent_them(name: str) -> None:
    page, infos = RECORDED[name]["page"], infos_of(name)
    assert sent(page, infos) == sent(nameless(page), infos) == RECORDED[name]["sent"]


@pytest.mark.parametrize("name", NEWEST)
def test_the_way_back_leads_to_the_same_values(name: str) -> None:
    infos, wanted = infos_of(name), RECORDED[name]["sent"]
    page = to_page({"7": {"class_type": RECORDED[name]["info"]["name"], "inputs": wanted}}, infos)
    assert sent(page, infos) == sent(nameless(page), infos) == wanted


@pytest.mark.parametrize("name", NEWEST)
def test_the_list_on_the_way_back_is_that_of_the_page(name: str) -> None:
    (theirs,) = RECORDED[name]["page"]["nodes"]
    made = {"class_type": theirs["type"], "inputs": RECORDED[name]["sent"]}
    (ours,) = to_page({"1": made}, infos_of(name))["nodes"]
    assert len(ours["widgets_values"]) == len(theirs.get("widgets_values") or [])
    assert {one["name"] for one in ours["inputs"] if "widget" in one} <= {one["name"] for one in theirs["inputs"]}


OWN = {
    "Own": {
        "input": {
            "required": {
                "view": ["NEVER_SEEN", {"socketless": True, "default": 5}],
                "size": ["INT", {"default": 8}],
                "text": ["STRING", {"default": "end"}],
            }
        },
        "output": [],
        "output_node": True,
    }
}


def own(values: list[Any], *widgets: str, **more: Any) -> dict[str, Any]:
    inputs = [{"name": name, "type": "NEVER_SEEN", "link": None, "widget": {"name": name}} for name in widgets]
    return {"nodes": [{"id": 4, "type": "Own", "inputs": inputs, "widgets_values": values, **more}], "links": []}


def test_a_widget_of_a_kind_never_seen_is_carried_where_the_node_lists_it() -> None:
    wanted = {"view": {"any": 1}, "size": 9, "text": "t"}
    assert sent(own([{"any": 1}, 9, "t"], "view"), OWN) == wanted
    page = to_page({"1": {"class_type": "Own", "inputs": wanted}}, OWN)
    assert sent(page, OWN) == sent(nameless(page), OWN) == wanted
    named = {"widgets_values_named": {"view": {"any": 1}, "size": 9, "text": "t"}}
    assert sent(own([], "view", **named), OWN) == wanted


def test_values_that_fit_no_widget_are_named_and_not_shifted(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PromptError, match=r"node 4 'Own': 3 values, and 'size' gets \{'any': 1\}"):
        to_api(own([{"any": 1}, 9, "t"]), OWN)
    with pytest.raises(PromptError, match=r"node 4 'Own': 3 values, and no one knows the widget 'view'"):
        to_api(own([5, 9, "t"]), OWN)
    with pytest.raises(PromptError, match=r"node 4 'Own': 4 values, and no one knows the widget 'view'"):
        to_api(own([5, "behind", 9, "t"], "view"), {"Own": OWN["Own"] | {"input": text_behind()}})
    known = {"Own": OWN["Own"] | {"input": {"required": {"size": ["INT", {}]}}}}
    with caplog.at_level(logging.WARNING):
        assert sent(own([9, "left", 3]), known) == {"size": 9}
    assert "node 4 Own: its class has no widget for the last values: ['left', 3]" in caplog.text


def text_behind() -> dict[str, Any]:
    """Return inputs whose types do not give a shift away."""
    required = OWN["Own"]["input"]["required"]  # type: ignore[index]
    return {"required": {"view": required["view"], "text": ["STRING", {}], "more": ["STRING", {}]}}


def test_constants_that_no_class_declares_are_carried() -> None:
    wanted = {"size": 9, "text": "t", "made by a script": [1, 2, 3]}
    boxed = wanted | {"made by a script": {"__value__": [1, 2, 3]}, "view": {"__value__": ["a", 1]}}
    page = to_page({"1": {"class_type": "Own", "inputs": boxed}}, OWN)
    assert sent(page, OWN) == boxed


def test_an_index_follows_the_choice_among_options_made_by_hand() -> None:
    infos = infos_of("cc 1.58.1")
    node = {"id": 1, "type": "CustomCombo", "inputs": [{"name": "choice", "widget": {"name": "choice"}}]}
    for values, index in ((["c", 0, "a", "b", "c", ""], 2), (["c", 0, "a"], -1), (["a"], -1)):
        found = sent({"nodes": [node | {"widgets_values": values}], "links": []}, infos)
        assert found["index"] == index and found["choice"] == values[0]
    named = {"widgets_values_named": {"choice": "b", "index": -1, "option1": "a", "option2": "b", "option3": ""}}
    assert sent({"nodes": [node | named], "links": []}, infos)["index"] == 1


@pytest.mark.parametrize("count", [-1, 1e300, "many", None, True, float("nan"), 10**9])
def test_any_number_of_rows_is_read(count: Any) -> None:
    infos = infos_of("rows3 1.58.1")
    page = {"nodes": [{"id": 1, "type": "PGroup", "widgets_values_named": {"first": 1, "rows": count}}], "links": []}
    assert len(sent(page, infos)) == 2 + 3 * 2  # at least two rows of three


@pytest.mark.parametrize(
    "template", [3, [1], {"required": [1]}, {"required": {"a": 1}}, {"required": {"a": ["INT", 1]}}]
)
def test_a_class_with_rows_that_cannot_be_read_is_left_out(template: Any) -> None:
    rows = {"input": {"required": {"rows": ["COMFY_DYNAMICGROUP_V3", {"template": template}]}}}
    grown = {"input": {"required": {"g": ["COMFY_AUTOGROW_V3", {"template": {"input": template}}]}}}
    assert set(node_infos({"Rows": rows, "Grown": grown, **OWN}, "made")) == {"Own"}
