"""Results are looked at in the nodes of ComfyUI's page, in both renderings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.commands.cli import main

from .comfyui_server import ROOT, Server
from .pages import FOLDER, MARKS, driven

pytestmark = MARKS
CHILD = Path(__file__).with_name("looks_child.py")


def areas(folder: Path) -> Path:
    """Write a workflow with two areas, the left half and a box, on an otherwise empty right half."""
    prompt: dict[str, Any] = {"1": {"class_type": "PatchbayLoadDemoModel", "inputs": {}}}
    prompt["2"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}}
    inputs = {"model": ["1", 0], "clip": ["1", 1], "latent": ["2", 0], "prompt": "a circle", "negative": ""}
    inputs |= {"regions": "left -> a red circle\n0.5 0.5 0.5 0.5 -> a blue square", "soft": 0.05, "base": 0.0}
    prompt["3"] = {"class_type": "PatchbayDrawnRegions", "inputs": inputs}
    (folder / "areas.json").write_text(json.dumps(prompt))
    assert main(["convert", str(folder / "areas.json"), "-o", str(folder / "areas_page.json")]) == 0
    return folder / "areas_page.json"


def comparison(folder: Path) -> Path:
    """Write a workflow whose patches make another picture, with a comparing node: no other run has cached it."""
    prompt = json.loads((ROOT / "example_workflows" / "api" / "demo.json").read_text())
    prompt["6"]["inputs"] |= {"slot": "attn2.out", "operation": "scale", "value": 2.0, "blocks": "all"}
    prompt["8"]["inputs"]["steps"] = 6
    prompt["11"] = {"class_type": "PatchbayCompare", "inputs": {"images": ["9", 0], "strengths": "0, 0.5"}}
    (folder / "api.json").write_text(json.dumps(prompt))
    assert main(["convert", str(folder / "api.json"), "-o", str(folder / "page.json")]) == 0
    page = json.loads((folder / "page.json").read_text())
    (folder / "page.json").write_text(json.dumps({**page, "id": f"00000000-0000-4000-8000-{os.getpid():012}"}))
    return folder / "page.json"


PATCH = {"operation": "temperature", "value": 0.4, "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}


def dashboard(folder: Path) -> Path:
    """Write a workflow with a guidance of ComfyUI, two patches and a capture, a map behind them, and an inspector."""
    prompt = json.loads((ROOT / "example_workflows" / "api" / "demo.json").read_text())
    sampler = prompt["8"]["inputs"]
    patch = {"model": ["20", 0], "slot": "attn2.q", "blocks": "output:0-1, middle", "curve": "constant", **PATCH}
    other = {**patch, "model": ["21", 0], "slot": "attn1.out", "operation": "zero", "blocks": "middle, input:5"}
    capture = {"model": ["22", 0], "clip": ["1", 1], "prompt": "a red circle", "words": "circle", "blocks": "output"}
    capture |= {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    chain: dict[str, Any] = {"20": ("SelfAttentionGuidance", {"model": ["1", 0], "scale": 0.5, "blur_sigma": 2.0})}
    chain |= {"21": ("PatchbayAttentionPatch", patch), "22": ("PatchbayAttentionPatch", other)}
    chain |= {"23": ("PatchbayCaptureAttention", capture)}
    chain |= {"24": ("PatchbayBlockMap", {"model": ["23", 0], "blocks": "all", "measure_change": True})}
    chain |= {"25": ("PatchbayPatchInspector", {"model": ["24", 2], "latent": ["8", 0]})}
    kept = {id: node for id, node in prompt.items() if not node["class_type"].startswith("Patchbay") or id == "1"}
    kept |= {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in chain.items()}
    kept["8"]["inputs"] = {**sampler, "model": ["24", 2], "steps": 5}
    (folder / "dashboard.json").write_text(json.dumps(kept))
    assert main(["convert", str(folder / "dashboard.json"), "-o", str(folder / "dashboard_page.json")]) == 0
    page = json.loads((folder / "dashboard_page.json").read_text())
    for node in page["nodes"]:  # the two are looked at, so they are as large as when a user adds them
        if node["type"] in ("PatchbayBlockMap", "PatchbayPatchInspector"):
            x = {"PatchbayBlockMap": 0, "PatchbayPatchInspector": 460}[node["type"]]
            node |= {"pos": [x, 1000], "size": [430, 620] if x == 0 else [760, 620]}
    (folder / "dashboard_page.json").write_text(
        json.dumps({**page, "id": f"00000000-0000-4000-9000-{os.getpid():012}"})
    )
    return folder / "dashboard_page.json"


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pack")
    examples = [FOLDER / "patch_report.json", comparison(folder), areas(folder), dashboard(folder)]
    with Server(folder / "base") as server:
        found: dict[str, Any] = driven("looks_child.py", folder, server.url, request.param, *examples)
    return found


def test_what_never_ran_is_said_first_and_why(seen: dict[str, Any]) -> None:
    report = seen["report"]
    assert report["waiting"] == "Run the workflow to see what the attention did."
    assert report["status"] == "execution_success"
    first, *others = report["fates"]
    assert first.startswith("\u26a0 3. zero attn1.out on middle") and "never ran, no step of the run lay in" in first
    assert [fate[0] for fate in others] == ["\u2713", "\u2713"]


def test_blocks_stand_in_groups_that_fold_and_columns_sort(seen: dict[str, Any]) -> None:
    report = seen["report"]
    titles = [row[0] for row in report["rows"] if len(row) == 1]
    assert [title.split(":")[0] for title in titles] == [
        "\u25be Input blocks",
        "\u25be Middle block",
        "\u25be Output blocks",
    ]
    blocks = [row for row in report["rows"][1:] if len(row) > 1]
    assert len(blocks) == 14 and blocks[0][:3] == ["input:3", "self", "split"]
    assert sum(int(row[4].split()[0]) for row in blocks) in range(93, 108)  # percents, each rounded
    calls = [int(row[3]) for row in report["sorted"][1:] if len(row) > 1 and row[0].startswith("output")]
    assert calls == sorted(calls, reverse=True)
    assert not any(row[0].startswith("input:") for row in report["folded"])


def test_the_map_the_steps_and_the_text_are_there(seen: dict[str, Any]) -> None:
    report = seen["report"]
    names = [name for name, _ in report["map"]]
    assert names == ["input:3", "input:5", "middle", "output:0", "output:1", "output:2", "output:3"]
    assert all("% of the time" in told for _, told in report["map"])
    assert report["steps"][0][0] == "step" and {row[0] for row in report["steps"][1:]} == {str(i) for i in range(1, 21)}
    assert "block     attention  heads" in report["text"]


def test_the_picture_is_under_a_slider_and_the_difference_is_shown(seen: dict[str, Any]) -> None:
    compared = seen["compared"]
    assert compared["status"] == "execution_success"
    slid, difference = compared["slid"], compared["difference"]
    assert slid["size"] == [512, 512] and 70 < int(slid["now"]) < 80
    assert slid["pressed"] == [["without", "true"], ["0.5 x", "false"], ["difference", "false"]]
    assert slid["told"].startswith("without: ") and "% apart on average" in slid["told"]
    assert difference["pressed"][2] == ["difference", "true"] and "yellow" in difference["told"]
    assert difference["right"] != slid["right"]


def test_a_cached_run_on_a_page_that_was_loaded_anew_shows_it_again(seen: dict[str, Any]) -> None:
    compared = seen["compared"]
    assert compared["again"] == "execution_success"
    assert compared["cached"]["size"] == [512, 512] and compared["cached"]["told"] == compared["slid"]["told"]


def test_a_cached_run_shows_what_another_workflow_drew(seen: dict[str, Any]) -> None:
    compared = seen["compared"]
    assert compared["copied"]["before"] == [0, 0] and compared["copied"]["status"] == "execution_success"
    assert compared["copied"]["size"] == [512, 512] and compared["copied"]["told"] == compared["slid"]["told"]


def test_areas_are_drawn_moved_named_and_undone_in_the_text(seen: dict[str, Any]) -> None:
    drawn = seen["drawn"]
    first = ["left -> a red circle", "0.5 0.5 0.5 0.5 -> a blue square"]
    assert drawn["first"]["text"] == drawn["undone"]["text"] == first
    assert drawn["first"]["chips"] == ["brush", "erase", "a red circle", "a blue square"]
    box, arrow, prompt = drawn["moved"]["text"][0].partition(" -> ")
    assert float(box.split()[0]) == pytest.approx(0.2, abs=0.02) and prompt == "a red circle"
    x, y, width, height = (float(part) for part in drawn["box"]["text"][2].partition("->")[0].split())
    assert [x, y, width, height] == pytest.approx([0.8, 0.1, 0.15, 0.3], abs=0.02)
    assert drawn["no box"]["text"] == first
    assert drawn["typed"]["text"][2].endswith("-> wrq") and drawn["typed"]["sidebar"] is None
    assert drawn["named"]["text"][2].endswith("-> a green cross")
    assert drawn["stroke"]["chips"][:3] == ["brush", "erase", "+"] and len(drawn["stroke"]["chips"]) == 7
    assert drawn["deleted"]["text"] == drawn["named"]["text"]
    assert drawn["deleted"]["nodes"] == drawn["first"]["nodes"], "Delete took a node"
    assert drawn["chosen"] == "a red circle"


def test_an_area_chosen_by_its_button_is_moved_by_keys_and_mouse(seen: dict[str, Any]) -> None:
    moved = seen["drawn"]["by key"]["text"][0]
    assert moved == "0.02 0 0.5 1 -> a red circle"
    first, second = seen["drawn"]["by button"]["text"]
    assert float(first.split()[0]) == pytest.approx(0.2, abs=0.02) and first.endswith(" frames 0-50% -> a")
    assert second == "left frames 50%- -> b"


def test_the_frames_of_an_area_have_a_field_that_keeps_what_can_be_read(seen: dict[str, Any]) -> None:
    shown, (wrong, told, invalid), (right, _, fine), undone = seen["drawn"]["frames"]
    assert shown == "0-50%" and wrong == undone == seen["drawn"]["by button"]["text"]
    assert "12-5" in told and (invalid, fine) == ("true", "false")
    assert right[0].endswith(" frames 0-25% fade 2 -> a") and right[1:] == wrong[1:]


def test_areas_are_painted_and_erased_each_stroke_a_step_of_undo(seen: dict[str, Any]) -> None:
    drawn = seen["drawn"]

    def shapes(name: str) -> list[tuple[str, float, list[tuple[float, float]]]]:
        found = []
        for part in drawn[name]["text"][3].partition(" -> ")[0].split(" + "):
            head, points = part.split(": ")
            word, width = head.split()
            places = [(float(x), float(y)) for x, y in (point.split() for point in points.split(", "))]
            found.append((word, float(width), places))
        return found

    ((word, width, points),) = shapes("stroke")
    assert (word, width) == ("brush", 0.1) and points[0] == pytest.approx((0.2, 0.2), abs=0.02)
    assert points[-1] == pytest.approx((0.6, 0.3), abs=0.02) and len(points) < 4  # a straight line
    first, (word, width, points) = shapes("more")
    assert [first] == shapes("stroke") and (word, width) == ("brush", 0.2)
    assert [points[0], points[-1]] == [pytest.approx(place, abs=0.02) for place in ((0.6, 0.3), (0.4, 0.6))]
    *kept, (word, width, points) = shapes("erased")
    assert kept == shapes("more") and (word, width) == ("erase", 0.2) and len(points) == 1
    assert drawn["back"]["text"] == drawn["more"]["text"] and len(drawn["erased"]["text"]) == 4
    assert shapes("again")[:-1] == shapes("more") and shapes("again")[-1][0] == "erase"


def test_before_a_run_the_map_shows_what_other_nodes_chose(seen: dict[str, Any]) -> None:
    before = seen["dashboard"]["before"]
    assert [line.partition(": ")[2] for line in before["legend"]] == ["output:0-1, middle", "middle, input:5", "output"]
    stripes = {name: len(colours) for name, colours in before["stripes"].items() if colours}
    assert stripes == {"input:5": 1, "middle": 2, "output:0": 2, "output:1": 2, "output:2": 1, "output:3": 1}
    first, second = before["stripes"]["middle"]
    assert [first] == before["stripes"]["output:0"][:1] and [second] == before["stripes"]["input:5"] and first != second
    assert before["chips"] == ["all", "none", "invert"] and not before["heat"]


def test_after_a_run_the_map_is_coloured_and_tells_numbers(seen: dict[str, Any]) -> None:
    after = seen["dashboard"]["after"]
    assert seen["dashboard"]["status"] == "execution_success"
    assert after["chips"] == ["all", "none", "invert", "choice", "calls", "time", "change", "entropy"]
    assert after["on"] == ["change"] and set(after["heat"]) == {"input:3", "input:5", "middle"} | {
        f"output:{i}" for i in range(4)
    }
    assert after["heat"]["input:3"] == "rgb(0, 33, 77)"  # no patch is in it
    assert "rgb(255, 235, 69)" in after["heat"].values()
    first, *others = seen["dashboard"]["pointed"]["lines"]
    assert first.startswith("output:1: ") and "calls" in first and "% of the time" in first
    assert any(line.startswith("change ") and "measured calls" in line for line in others)
    assert any(line.startswith("entropy ") for line in others)
    assert seen["dashboard"]["pointed"]["map"] == [4, 4]
    assert set(seen["dashboard"]["entropy"]["heat"]) == {f"output:{i}" for i in range(4)}


def test_a_page_that_was_loaded_anew_shows_the_map_of_the_last_run(seen: dict[str, Any]) -> None:
    restored, after = seen["dashboard"]["restored"], seen["dashboard"]["after"]
    assert restored["heat"] == after["heat"] and restored["on"] == ["change"]


def test_the_inspector_is_a_table_by_owner_or_slot_that_says_what_is_replaced(seen: dict[str, Any]) -> None:
    listed = seen["dashboard"]["inspector"]
    assert listed["chips"] == ["by owner", "by slot", "text"]
    groups = [row[0] for row in listed["owner"] if len(row) == 1]
    assert groups[0].startswith("\u25be 1. temperature 0.4 attn2.q on output:0-1, middle: 1 place")
    assert "\u25be 3. attention to circle on output: 5 places" in groups
    (replacing,) = [row for row in listed["owner"] if row[0] == "attn1"]
    assert replacing[1] == "middle.0" and "in the place of the self-attention" in replacing[-1]
    calls = [row[3] for row in listed["sorted"] if row[0] in ("attn1", "sampler_post_cfg_function")]
    assert "in the place of the self-attention" in str(listed["sorted"]) and len(calls) == 4
    slots = [row[0].partition(":")[0] for row in listed["slot"] if len(row) == 1]
    assert slots == [
        "\u25be attn2_patch",
        "\u25be attn1_output_patch",
        "\u25be attn2",
        "\u25be attn1",
        "\u25be sampler_post_cfg_function",
    ]
    folded = [row for row in listed["folded"] if len(row) > 1]
    assert len([row for row in listed["slot"] if len(row) > 1]) - len(folded) == 4  # those of attn2
    assert "slot" in listed["text"] and "schedule" in listed["text"]


def test_nothing_is_wrong_in_the_console(seen: dict[str, Any]) -> None:
    assert not seen["errors"]
