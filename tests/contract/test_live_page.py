"""Masks of words are seen on ComfyUI's page while a run makes them, in both renderings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .comfyui_server import Server
from .pages import FOLDER, MARKS, driven

pytestmark = MARKS
CHILD = Path(__file__).with_name("live_child.py")
WAITING = "The mask of the word appears here while sampling."


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pack")
    with Server(folder / "base") as server:
        examples = [FOLDER / f"{name}.json" for name in ("region_by_word", "word_mask_by_word")]
        found: dict[str, Any] = driven("live_child.py", folder, server.url, request.param, *examples)
    return found


def test_each_region_shows_the_mask_of_its_word_as_it_gathers_and_as_it_holds(seen: dict[str, Any]) -> None:
    assert seen["status"] == "execution_success" and [one["told"] for one in seen["waiting"]] == [WAITING] * 2
    for node, word in (("16", "circle"), ("17", "square")):
        found = [one for one in seen["regions"] if one["node"] == node]
        assert [one["step"] for one in found] == list(range(1, 21)) and {one["labels"][0] for one in found} == {word}
        assert [one["since"] for one in found] == [0] * 4 + [5] * 16, "after 20 % of 20 steps"
        assert found[0]["told"].startswith("step 1: gathering; the mask would cover ")
        assert found[4]["told"].startswith("step 5: the mask of step 5 holds and covers ")
        assert all(one["images"] == 1 and 0.0 < one["covers"][0] < 1.0 for one in found)
    both = [[one["covers"][0] for one in seen["regions"] if one["step"] == step] for step in range(1, 21)]
    assert all(1.0 <= sum(covers) < 1.1 for covers in both), "against each other they part the picture"
    for one in seen["shown"]:
        assert one["told"].startswith("step 20: the mask of step 5 holds and covers ")
        assert one["size"] == [512, 512] and min(one["box"]) > 80 and one["colours"] > 20
        assert one["buttons"][-1] == "copy mask" and "mask node" not in one["buttons"]


def test_the_workflow_opened_again_shows_the_last_run(seen: dict[str, Any]) -> None:
    assert [one["told"] for one in seen["again"]] == [one["told"] for one in seen["shown"]]


def test_pictures_of_a_batch_have_their_own_and_a_second_pass_begins_anew(seen: dict[str, Any]) -> None:
    found = seen["batch"]
    assert found["status"] == "execution_success"
    steps = [one["step"] for one in found["live"]]
    assert steps[:4] == [1, 2, 3, 4] and steps[4] == 1 and len(steps) > 5
    assert all(one["pictures"] == len(one["covers"]) == 2 for one in found["live"])


def test_a_node_may_be_renamed_or_taken_away_and_a_run_be_interrupted(seen: dict[str, Any]) -> None:
    renamed, stopped, gone = (seen["changed"][what] for what in ("rename", "interrupt", "remove"))
    assert renamed["status"] == gone["status"] == "execution_success" and not gone["shown"]
    assert renamed["shown"][0]["told"].startswith("step 6: ")
    assert stopped["status"] == "execution_interrupted" and 3 <= len(stopped["live"]) < 60
    assert stopped["shown"][0]["told"].startswith(f"step {stopped['live'][-1]['step']}: ")
    assert len(gone["live"]) == 6 and [one["told"] is None for one in gone["live"]] == [False] * 3 + [True] * 3


def test_an_interrupted_run_says_where_it_stopped(seen: dict[str, Any]) -> None:
    stopped = seen["changed"]["interrupt"]
    assert stopped["shown"][0]["told"].endswith(f"; the run stopped at step {stopped['live'][-1]['step']} of 60")
    assert [one["told"] for one in stopped["again"]] == [one["told"] for one in stopped["shown"]]


def test_what_is_told_late_of_an_earlier_run_is_left(seen: dict[str, Any]) -> None:
    assert seen["late"]["status"] == "execution_success" and seen["late"]["late"] == 1
    assert seen["late"]["shown"][0]["told"].startswith("step 4: ")


def test_a_mask_says_what_it_is_of(seen: dict[str, Any]) -> None:
    found = seen["hints"]
    assert (
        found["before"] == "There is no mask to copy yet: run the workflow." and found["status"] == "execution_success"
    )
    assert found["run"].startswith("step 6: the mask of step ") and found["run"].count("%") == 1
    assert found["threshold"].startswith(f"{found['run']}; with this threshold it would cover ")
    ran, would = (float(part.split()[-1]) for part in found["threshold"].split(" %")[:2])
    assert would > 2 * ran
    assert found["word"] == f"Of the word circle, before the change: {found['threshold']}"
    assert found["cut"] == [0, True]


def test_the_outside_of_a_mask_is_dark(seen: dict[str, Any]) -> None:
    ran, would = (float(part.split()[-1]) / 100 for part in seen["hints"]["threshold"].split(" %")[:2])
    assert abs(1 - ran - seen["hints"]["dark"]) < 0.1 and abs(1 - would - seen["hints"]["less dark"]) < 0.1


def test_a_run_that_no_page_sent_shows_nothing(seen: dict[str, Any]) -> None:
    assert seen["script"] == ["execution_success", 0]


def test_nothing_is_wrong_in_the_console(seen: dict[str, Any]) -> None:
    assert not seen["errors"]
