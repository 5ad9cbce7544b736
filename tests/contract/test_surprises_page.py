"""What surprised people on ComfyUI's page does so no more, in both renderings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .comfyui_server import Server
from .pages import FOLDER, MARKS, driven

pytestmark = MARKS
CHILD = Path(__file__).with_name("surprises_child.py")
LABELS = ["circle", "square", "0.25 0.5"]


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    about = server.url, request.param, FOLDER
    found: dict[str, Any] = driven("surprises_child.py", tmp_path_factory.mktemp("pack"), *about)
    return found | {"renderer": request.param}


def test_a_click_on_a_heatmap_says_what_it_asks_and_is_taken_back(seen: dict[str, Any]) -> None:
    found = seen["maps"]
    asked, back, again = (found[name] for name in ("asked", "taken back", "again"))
    assert found["status"] == "execution_success" and asked[0].startswith("0.25 0.5, 0.5")
    assert asked[1].endswith("asked for. Points of Capture Attention on the next run: 2.")
    assert back[0] == "0.25 0.5" and "taken back. Points of Capture Attention on the next run: 1." in back[1]
    assert again == asked
    assert found["undone"][0] == "0.25 0.5" and [label for label, _ in found["undone"][2]] == LABELS


def test_the_picture_is_a_heatmap_and_quiet_while_the_mouse_moves(seen: dict[str, Any]) -> None:
    assert seen["maps"]["quiet"] and seen["maps"]["roles"] == ["application", "heatmap", True]


def test_opacity_and_threshold_act_on_the_viewer(seen: dict[str, Any]) -> None:
    covered, bare = seen["maps"]["colours"]
    assert bare[0] > 180 and bare[2] < 90, "the circle is red"
    assert covered != bare


def test_a_drag_is_one_step_and_keys_do_not_delete(seen: dict[str, Any]) -> None:
    found = seen["blocks"]
    assert found["dragged"] != found["first"] == found["undone"]
    before, zoomed, panned = found["canvas"]
    assert before[3] == panned[3], "no node is gone"
    assert zoomed[0] > before[0] and panned[0] == zoomed[0]
    assert panned[1] > zoomed[1] + 30 and panned[2] > zoomed[2] + 20


def test_undo_works_while_a_panel_is_open(seen: dict[str, Any]) -> None:
    found = seen["panel"]
    assert found["chosen"] != found["before"] and found["undone"] == [found["before"]] * 2
    assert found["again"] == found["chosen"]


def test_displays_are_not_drawn_from_afar(seen: dict[str, Any]) -> None:
    """In Nodes 2.0 the page draws all of a node at any zoom."""
    assert seen["renderer"] == "vue" or seen["panel"]["afar"] == 0


def test_blocks_that_are_not_chosen_can_be_seen(seen: dict[str, Any]) -> None:
    assert seen["blocks"]["contrast"] >= 3


def test_results_come_back_with_the_page(seen: dict[str, Any]) -> None:
    for name in ("AttentionMaps", "CaptureAttention"):
        assert [label for label, _ in seen["kept"][name]] == LABELS
    assert [label for label, _ in seen["cached"]] == LABELS


def test_the_tab_shows_the_node_of_a_row_and_follows_the_workflow(seen: dict[str, Any]) -> None:
    found = seen["kept"]
    assert found["jumped"] in found["nodes"] and found["jumped"] != "PatchbayPatchInspector"
    assert found["other"] == 0


def test_search_finds_the_nodes(seen: dict[str, Any]) -> None:
    assert {word: place for word, place in seen["search"].items() if not 0 <= place <= 2} == {}


def test_a_wrong_widget_is_told_at_the_widget(seen: dict[str, Any]) -> None:
    count, labels, said = seen["refused"]
    assert count == 1 and [label for label in labels if label.startswith("\u26a0")] == ["\u26a0 heads"]
    assert "Capture Attention: heads" in said
    assert "cannot read the heads 'none'; write all, or numbers such as 0, 3-5" in said


def test_what_is_said_of_a_wrong_widget_goes_when_it_is_mended(seen: dict[str, Any]) -> None:
    _, labels, said = seen["mended"]
    assert not any(label.startswith("\u26a0") for label in labels)
    assert "cannot read the heads" not in said


def test_the_pack_causes_no_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
