"""Every help page of a released node has a picture, small and made by a command; rows are laid out as asked."""

from __future__ import annotations

import json
import os
import re

from attention_patchbay.headless.engine.workflow import Prompt
from attention_patchbay.tools.help_page import DOCS
from attention_patchbay.tools.help_pictures import CHOICES, GAP, WIDTH, changed, laid_out
from PIL import Image

from ..contract.comfyui_server import ROOT
from ..released import RELEASED

LARGEST = 60_000  # bytes


def test_every_page_shows_a_picture_that_is_there_and_small() -> None:
    pages = sorted(DOCS.glob("*.md"))
    for page in pages if "PATCHBAY_RELEASE" in os.environ else [page for page in pages if page.stem in RELEASED]:
        shown = re.findall(r"!\[[^]]+\]\(([\w.]+)\)", page.read_text())
        assert shown, f"{page.name} has no picture: write an entry of tools/help_pictures.json"
        assert [name for name in shown if (DOCS / name).stat().st_size > LARGEST] == []


def test_every_drawn_picture_says_how_it_was_made() -> None:
    shots = (ROOT / "tests" / "contract" / "help_shots.py").read_text()
    made = {*json.loads(CHOICES.read_text()), *re.findall(r'"(Patchbay\w+)": Shot', shots)}
    assert {path.stem for path in DOCS.glob("*.webp")} == made


def test_a_bypassed_node_hands_on_its_model() -> None:
    prompt: Prompt = {
        "1": {"class_type": "PatchbayLoadDemoModel", "inputs": {}},
        "2": {"class_type": "PatchbayFreeU", "inputs": {"model": ["1", 0], "b1": 1.1}},
        "3": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "seed": 7}},
    }
    without = changed(prompt, {"bypass": ["2"], "set": {"3.seed": 8}})
    assert without == {"1": prompt["1"], "3": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": 8}}}
    assert prompt["3"]["inputs"] == {"model": ["2", 0], "seed": 7}


def test_single_pictures_stand_beside_each_other_and_batches_below() -> None:
    red, blue = (Image.new("RGB", (128, 128), colour) for colour in ("red", "blue"))
    side = (WIDTH - GAP) // 2
    assert laid_out([[red], [blue]]).size == (2 * side + GAP, side)
    sheet = laid_out([[red, red], [blue, blue]])
    assert sheet.size == (2 * side + GAP, 2 * side + GAP)
    assert sheet.getpixel((10, 10)) == (255, 0, 0) and sheet.getpixel((10, side + GAP + 10)) == (0, 0, 255)
