"""Attention maps are looked at and made into masks on ComfyUI's page, in both renderings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .comfyui_server import Server
from .pages import FOLDER, MARKS, driven

pytestmark = MARKS
CHILD = Path(__file__).with_name("viewer_child.py")


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pack")
    with Server(folder / "base") as server:
        examples = [FOLDER / f"{name}.json" for name in ("attention_maps_heatmap", "patch_report")]
        found: dict[str, Any] = driven("viewer_child.py", folder, server.url, request.param, *examples)
    return found


def test_each_step_brings_the_picture_so_far_and_all_words(seen: dict[str, Any]) -> None:
    assert seen["status"] == "execution_success"
    steps, words, sizes, ground = zip(*seen["live"], strict=True)
    assert list(steps) == list(range(1, len(steps) + 1)) and len(steps) > 3
    assert all(size == [16, 16] for size in sizes)  # of the latent
    assert ground[-1] > 200, "the demo model draws on white"
    assert all({"a", "left", "right"} <= set(some) and "circle" not in some for some in words)


def test_a_word_that_nobody_named_is_shown_when_it_is_pointed_at(seen: dict[str, Any]) -> None:
    others, named = seen["rest"]
    assert dict(others)["left"] == "true" and {pressed for word, pressed in others if word != "left"} == {"false"}
    assert {pressed for _, pressed in named} == {"false"}


def test_a_mask_is_copied_as_it_is_drawn(seen: dict[str, Any]) -> None:
    told, copied = seen["copied"]
    assert told == "The mask of circle is on the clipboard, 512 x 512."
    assert copied == {"size": [512, 512], "values": [0, 255], "left": 255, "right": 0}


def test_mask_nodes_are_linked_and_undone_in_one_step(seen: dict[str, Any]) -> None:
    added = seen["added"]
    nodes, told = added["maps"]
    assert nodes[1][:2] == ["Mask of circle", "circle"] and nodes[1][2][:3] == nodes[0][2][:3] == [True, True, True]
    assert told == "Mask of circle is added; its masks output gives it."
    nodes, words, told = added["capture"]
    assert nodes[2][:2] == ["Mask of left", "left"] and nodes[2][2][:3] == [True, True, False]
    assert words.endswith(", left") and told.endswith("captures left from the next run on.")
    assert added["status"] == "execution_success"
    nodes, words = added["undone"]
    assert [title for title, *_ in nodes][1:] == ["Mask of circle"] and not words.endswith("left")


def test_frames_of_a_video_have_a_slider(seen: dict[str, Any]) -> None:
    first, last = seen["frames"]
    assert first[0] == "frame 1 of 3" and last[0] == "frame 3 of 3"
    assert first[1][0] > 240 > 10 > first[3][0] and last[3][0] > 240 > 10 > last[1][0]


def test_texts_can_be_read_on_both_palettes(seen: dict[str, Any]) -> None:
    for palette, (texts, edges) in seen["contrast"].items():
        assert texts > 4.5, palette
        assert edges > 1.2, palette


def test_nothing_is_wrong_in_the_console(seen: dict[str, Any]) -> None:
    assert not seen["errors"]
