"""Open the example workflows in ComfyUI's own page, in both renderings, and run one."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from .comfyui_server import Server
from .pages import FOLDER, MARKS, driven

pytestmark = MARKS
TITLE = 30  # pixels above a node


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    about = server.url, request.param, FOLDER
    found: dict[str, Any] = driven("page_child.py", tmp_path_factory.mktemp("pack"), *about)
    return found


def test_the_page_sends_the_api_form(seen: dict[str, Any]) -> None:
    assert set(seen["api"]) == {path.stem for path in FOLDER.glob("*.json")}
    for name, sent in seen["api"].items():
        wanted = json.loads((FOLDER / "api" / f"{name}.json").read_text())
        assert {id: (node["class_type"], node["inputs"]) for id, node in sent.items()} == {
            id: (node["class_type"], node["inputs"]) for id, node in wanted.items()
        }


def test_no_node_covers_another(seen: dict[str, Any]) -> None:
    for name, boxes in seen["boxes"].items():
        for (x, y, width, height), (x2, y2, width2, height2) in itertools.combinations(boxes, 2):
            beside = x + width <= x2 or x2 + width2 <= x
            below = y + height <= y2 - TITLE or y2 + height2 <= y - TITLE
            assert beside or below, (name, (x, y), (x2, y2))


def test_the_node_shows_the_report(seen: dict[str, Any]) -> None:
    assert seen["status"] == "execution_success"
    assert "attention calls" in seen["report"]["text"]
    assert seen["report"]["width"] > 400 and seen["report"]["height"] > 200


def test_blocks_are_chosen_on_the_map(seen: dict[str, Any]) -> None:
    found = seen["map"]
    assert found["status"] == "execution_success"
    assert found["loaded"] == ["output:0-1, middle", ["middle", "output:0", "output:1"]]
    assert found["dragged"] == ["middle, output", ["middle", "output:0", "output:1", "output:2", "output:3"]]
    assert found["clicked"][0] == "output"
    assert found["pressed"] == ["input:5, output", ["input:5", "output:0", "output:1", "output:2", "output:3"]]
    assert found["written"] == ["input self", ["input:3", "input:5"]]
    assert found["kept"] == ["input:5 self", ["input:5"]]
    assert found["sent"] == ["input:5 self"]


def test_rules_are_written_with_suggestions_and_errors(seen: dict[str, Any]) -> None:
    begun, wrong, chosen = (seen["rules"][name] for name in ("begun", "wrong", "chosen"))
    assert begun["text"].endswith("-> auto; mid") and begun["chips"] == ["middle"]
    assert len(begun["lines"]) == 5 and begun["lines"][0].startswith("1. output self 0-50%")
    assert "line 4, column 15: '->' and a backend are missing" in begun["lines"][-1]
    assert wrong["text"].endswith("; middle -> xform") and wrong["chips"] == ["xformers"]
    assert "unknown attention function 'xform'" in wrong["lines"][-1]
    assert chosen["text"].endswith("; middle -> xformers") and chosen["lines"][-1] == "5. middle \u2192 xformers"


def test_maps_are_seen_while_sampling_and_after(seen: dict[str, Any]) -> None:
    found = seen["maps"]
    assert found["status"] == "execution_success"
    assert [step for step, _ in found["steps"]] == list(range(1, 21))
    assert all(labels == ["circle", "square", "0.25 0.5"] for _, labels in found["steps"])
    assert [label for label, _ in found["live"]["labels"]] == ["circle", "square", "0.25 0.5"]
    assert found["live"]["status"] == "step 20" and min(found["live"]["box"]) > 100
    circle, square = found["circle"], found["square"]
    assert circle["labels"][0] == ["circle", "true"] and square["labels"][1] == ["square", "true"]
    assert min(circle["box"]) > 100
    # the circle is on the left, the square on the right: its map is lighter there
    light = {(word, side): sum(found[word][side][:3]) for word in ("circle", "square") for side in ("left", "right")}
    assert light["circle", "left"] > light["square", "left"] and light["square", "right"] > light["circle", "right"]
    assert found["moved"].startswith("at 0.52 0.50: ") and "circle" in found["moved"] and "square" in found["moved"]
    assert found["asked"] == "0.25 0.5, 0.52 0.5"


def test_curves_and_blocks_are_chosen_in_panels(seen: dict[str, Any]) -> None:
    found = seen["maps"]
    assert found["curve"] == "0:1, 1:0.02" and found["blocks"] == "middle, output:4-11"
    assert found["panels"] == 0
    assert found["reloaded"]["points"] == "0.25 0.5, 0.52 0.5"
    assert found["reloaded"]["curve"] == "0:1, 1:0.02" and found["reloaded"]["blocks"] == "middle, output:4-11"


def test_the_tab_lists_the_patches(seen: dict[str, Any]) -> None:
    assert seen["inspector"]["status"] == "execution_success"
    found = {lines[0]: lines[1:] for lines in seen["inspector"]["rows"] if len(lines) == 3}
    (ran,) = [lines for lines in found.values() if lines[1].startswith("\u2713 ran")]
    (dead,) = [lines for lines in found.values() if lines[1].startswith("\u26a0")]
    assert ran[0].startswith("attn2_patch on output:0") and "calls" in ran[1]
    assert dead[0].startswith("attn1_output_patch on middle")


def test_widgets_survive_undo_copy_and_subgraphs(seen: dict[str, Any]) -> None:
    found = seen["carried"]
    assert found["drawn"] == "linear" and found["undone"] == "constant"
    copies, views, values = found["pasted"]
    assert copies == views == 1
    assert {name: found["sent"][name] for name in values} == values and values["words"] == "circle, square"
    assert found["status"] == "execution_success" and found["inner"] == "step 20"


def test_the_pack_causes_no_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
