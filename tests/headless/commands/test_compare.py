"""`patchbay run --compare`: the pictures without the patches beside those with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from attention_patchbay.headless.commands.cli import main
from PIL import Image

EXAMPLES = Path(__file__).parents[3] / "example_workflows" / "api"
DEMO = EXAMPLES / "demo.json"
FEW = ["--set", "KSampler.steps=2", "--quiet"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def plain(folder: Path) -> Path:
    """Write the workflow without the nodes that patch its model."""
    prompt = json.loads(DEMO.read_text())
    prompt["8"]["inputs"]["model"] = ["1", 0]
    path = folder / "plain.json"
    path.write_text(json.dumps(prompt))
    return path


def test_it_saves_the_pictures_at_each_strength_and_where_they_differ(tmp_path: Path) -> None:
    with_, without = tmp_path / "with", tmp_path / "without"
    assert main(["run", str(DEMO), "--compare", "0, 0.5", "--output", str(with_), *FEW]) == 0
    assert main(["run", str(plain(tmp_path)), "--output", str(without), *FEW]) == 0
    names = sorted(path.name for path in with_.glob("*.png"))
    assert names == sorted(
        ["patchbay_demo_00001_.png"]
        + [f"patchbay_demo_{name}_0000{number}_.png" for name in ("others", "differences") for number in (1, 2)]
    )
    other = pixels(with_ / "patchbay_demo_others_00001_.png")
    assert (other == pixels(without / "patchbay_demo_00001_.png")).all()
    assert (other != pixels(with_ / "patchbay_demo_00001_.png")).any()
    with Image.open(with_ / "patchbay_demo_others_00001_.png") as picture:
        sent = json.loads(picture.info["prompt"])
    assert "10 compared" in sent and not [id for id in sent if id.startswith("10 compared.")]


def test_a_workflow_without_patches_has_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(plain(tmp_path)), "--compare", "0", "--output", str(tmp_path / "out")]) == 2
    assert "gets pictures of a model with patches: there is nothing to compare" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("strengths", ["half", "x", "", " ", "0,", "nan", "inf", "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"])
def test_a_wrong_strength_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], strengths: str
) -> None:
    assert main(["run", str(DEMO), "--compare", strengths, "--output", str(tmp_path / "out"), *FEW]) == 2
    said = capsys.readouterr().err
    assert "strengths: " in said and "; write such as 0, or 0, 0.5, 1.5" in said or "write at most" in said
    assert not (tmp_path / "out").exists()


def test_regions_of_live_masks_are_drawn_at_each_strength(tmp_path: Path) -> None:
    """The masks of a weaker run are its own."""
    live, steps = EXAMPLES / "region_by_word.json", ["--set", "KSampler.steps=3", "--quiet"]
    compared, half, without = (tmp_path / name for name in ("compared", "half", "without"))
    prompt = json.loads(live.read_text())
    prompt["8"]["inputs"]["model"] = ["1", 0]
    for id in ("11", "12", "13", "18"):
        del prompt[id]
    (tmp_path / "plain.json").write_text(json.dumps(prompt))
    assert main(["run", str(live), "--compare", "0, 0.5", "--output", str(compared), *steps]) == 0
    weaker = ["--set", "PatchbayRegionalPrompt.strength=0.5"]
    assert main(["run", str(live), *weaker, "--output", str(half), *steps]) == 0
    assert main(["run", str(tmp_path / "plain.json"), "--output", str(without), *steps]) == 0
    first, second = (pixels(compared / f"patchbay_region_by_word_others_0000{i}_.png") for i in (1, 2))
    alone = "patchbay_region_by_word_00001_.png"
    assert (first == pixels(without / alone)).all() and (second == pixels(half / alone)).all()
    assert (second != pixels(compared / alone)).any()


@pytest.mark.parametrize(
    ("name", "reader", "output"),
    [("region_by_word", "PatchbayLiveMasks", 1), ("attention_maps_heatmap", "PatchbayAttentionMaps", 0)],
)
def test_saved_pictures_of_the_patches_themselves_are_not_compared(
    tmp_path: Path, name: str, reader: str, output: int
) -> None:
    """Masks and maps are read off the run of the patches; without them there are none."""
    prompt = json.loads((EXAMPLES / f"{name}.json").read_text())
    (id,) = (id for id, node in prompt.items() if node["class_type"] == reader)
    pictures = prompt[id]["inputs"]["images"]
    scale = {"image": [id, output], "upscale_method": "area", "scale_by": 0.5}
    prompt["scaled"] = {"class_type": "ImageScaleBy", "inputs": scale}
    for prefix, link in (("kept", ["scaled", 0]), ("picture", pictures)):
        prompt[prefix] = {"class_type": "SaveImage", "inputs": {"images": link, "filename_prefix": prefix}}
    (tmp_path / "kept.json").write_text(json.dumps(prompt))
    assert main(["run", str(tmp_path / "kept.json"), "--compare", "0", "--output", str(tmp_path), *FEW]) == 0
    saved = {path.name for path in tmp_path.glob("*.png")}
    assert {"kept_00001_.png", "picture_00001_.png", "picture_others_00001_.png"} <= saved
    assert not [one for one in saved if one.startswith("kept_others")]


def test_what_two_nodes_say_alike_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(EXAMPLES / "word_weight.json"), "--output", str(tmp_path), *FEW]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("without: ")]
    assert len(lines) == 1
