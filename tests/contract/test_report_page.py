"""Open the report of a sweep in a browser, from its file and without a network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.commands.cli import main

from .comfyui_server import ROOT, python
from .test_page import CHROMIUM, can_drive_a_page

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not can_drive_a_page(), reason="needs COMFYUI_PATH, playwright beside ComfyUI, and Chromium"),
]
CHILD = Path(__file__).with_name("report_child.py")
DEMO = ROOT / "example_workflows" / "api" / "demo.json"
STEPS, BLOCKS = "KSampler.steps", "PatchbayAttentionPatch.blocks"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    arguments = ["sweep", str(DEMO), "--folder", str(folder), "--quiet", "--axis", f"{STEPS}=3,4"]
    arguments += ["--axis", f"{BLOCKS}=middle,output:99", "--axis", "EmptyLatentImage.batch_size=2"]
    for value in (f"{STEPS}=3", f"{BLOCKS}=middle", "EmptyLatentImage.batch_size=2"):
        arguments += ["--baseline", value]
    assert main(arguments) == 1
    command = [python(), str(CHILD), str(CHROMIUM), str(folder / "report.html"), str(folder / "report.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_opens_without_a_network(report: dict[str, Any]) -> None:
    assert report["errors"] == [] and all(url.startswith("file:") for url in report["asked"])
    assert report["pictures"] and all(complete and wide > 0 for complete, wide in report["pictures"])
    assert report["summary"] == "4 cells, 2 failed. Differences are to the baseline, in levels of 255."


def test_the_contact_sheet_has_the_axes(report: dict[str, Any]) -> None:
    head, *rows = report["sheet"]
    assert head == ["", f"{STEPS} 3", f"{STEPS} 4"]
    assert rows == [[f"{BLOCKS} middle", 2, 2], [f"{BLOCKS} output:99", 0, 0]]
    assert report["one row"][1:] == [["", 2, 2]]
    assert len(report["errors of cells"]) == 2 and all("output:99" in text for text in report["errors of cells"])


def test_the_table_is_sorted(report: dict[str, Any]) -> None:
    numbers = [float(text) for text in report["up"] if text]
    assert len(numbers) == 2 and numbers == sorted(numbers)
    assert [text for text in report["down"] if text] == [text for text in reversed(report["up"]) if text]
    assert report["up"][2:] == report["down"][2:] == ["", ""]


def test_two_pictures_are_compared(report: dict[str, Any]) -> None:
    left, right = report["left and right"]
    assert "(baseline)" in left and left != right
    below, above = report["chosen"]
    assert below != above and below.endswith("_00002_.png") and above.endswith("_00002_.png")
    assert report["clip"] == ["inset(0px 100% 0px 0px)", "inset(0px 0% 0px 0px)"]
    assert report["points"] == 2


def test_it_fits_a_telephone(report: dict[str, Any]) -> None:
    assert not report["wider than a telephone"]
