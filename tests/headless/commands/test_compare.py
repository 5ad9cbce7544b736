"""`patchbay run --compare`: the pictures without the patches beside those with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from attention_patchbay.headless.commands.cli import main
from PIL import Image

DEMO = Path(__file__).parents[3] / "example_workflows" / "api" / "demo.json"
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


def test_a_wrong_strength_is_said_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(DEMO), "--compare", "half", "--output", str(tmp_path), *FEW])
    assert "strengths: 'half' is no number" in capsys.readouterr().err
