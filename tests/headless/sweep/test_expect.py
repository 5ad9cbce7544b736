"""`patchbay sweep --expect`: pictures that drift past a bound."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.sweep.expect import Bound, Expected, drift, parse_bound
from PIL import Image

from .test_sweep import DEMO

AXES = ["--axis", "KSampler.seed=1,2", "--axis", "KSampler.steps=1", "--baseline", "KSampler.seed=1"]
AXES += ["--baseline", "KSampler.steps=1", "--quiet"]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    assert main(["sweep", str(DEMO), "--folder", str(folder), *AXES]) == 0
    return folder


def test_a_picture_that_drifts_past_the_bound_ends_in_3(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tmp_path / "expected"
    shutil.copytree(before, expected)
    again = ["sweep", str(DEMO), "--folder", str(tmp_path / "now"), *AXES, "--expect", str(expected)]
    assert main(again) == 0
    (file,) = [
        path for path in expected.glob("cells/*.json") if json.loads(path.read_text())["choice"]["KSampler.seed"] == 2
    ]
    (picture,) = (expected / "cells" / file.stem).glob("*.png")
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    Image.fromarray(np.where(pixels < 128, pixels + 3, pixels - 3).astype(np.uint8)).save(picture)
    capsys.readouterr()
    assert main(again) == 3
    said = capsys.readouterr().err
    assert (
        said.count("drifted:") == 1
        and "drifted: KSampler.seed=2, KSampler.steps=1: " in said
        and "mean 3.0 is above 1.0" in said
    )
    assert main([*again, "--bound", "3"]) == 0 and main([*again, "--bound", "max=2.5"]) == 3
    picture.unlink()
    assert main([*again, "--bound", "255"]) == 3 and "cannot be compared" in capsys.readouterr().err


def test_every_bound_holds(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "grey.png"
    Image.new("RGB", (128, 128), (128, 128, 128)).save(picture)
    run = ["sweep", str(DEMO), "--folder", str(tmp_path / "now"), *AXES, "--expect", str(picture)]
    far, near = ["--bound", "max=255"], ["--bound", "mean=1"]
    assert main([*run, *far]) == 0
    for bounds in (near, [*near, *far], [*far, *near], [*near, "--bound", "mean=255"]):
        capsys.readouterr()
        assert main([*run, *bounds]) == 3
        assert capsys.readouterr().err.count("is above 1.0") == 2  # cells


def test_what_cannot_be_held_is_refused_before_anything_runs(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from attention_patchbay.headless.sweep import expect

    monkeypatch.setattr(expect, "lpips_model", lambda: None)
    (tmp_path / "text.json").write_text("{}")
    whole = next(before.glob("cells/*/*.png")).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    damaged = tmp_path / "damaged"
    shutil.copytree(before, damaged)
    next(damaged.glob("cells/*/*.png")).write_bytes(b"x")
    for more, why in (
        (["--expect", str(before), "--bound", "lpips=0.1"], "weights are missing; pip install lpips"),
        (["--expect", str(before), "--bound", "mean=1", "--bound", "lpips=0.1"], "weights are missing"),
        (["--expect", str(before), "--bound", "ssim=1.5"], "no picture reaches it: ssim is at most 1"),
        (["--expect", str(tmp_path / "text.json")], "text.json is no picture"),
        (["--expect", str(tmp_path / "cut.png")], "cut.png is no picture"),
        (["--expect", str(damaged)], "png is no picture"),
    ):
        assert main(["sweep", str(DEMO), "--folder", str(tmp_path / "now"), *AXES, *more]) == 2, more
        assert why in capsys.readouterr().err
        assert not (tmp_path / "now").exists()


def test_cells_are_found_by_their_values_and_json_tells_how_far(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", str(DEMO), "--folder", str(tmp_path), *AXES, "--expect", str(before), "--json"]
    arguments[arguments.index("KSampler.seed=1,2")] = "KSampler.seed=2,3"
    assert main(arguments) == 3
    rows = {row["KSampler.seed"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[2]["drifted"] == "" and rows[2]["drift"]["max"] == 0.0 and rows[1]["drift"]["max"] == 0.0
    assert rows[3]["drifted"] == "no picture is expected of this cell"


def test_one_picture_may_be_expected_of_every_cell(before: Path, tmp_path: Path) -> None:
    rows = [json.loads(path.read_text()) | {"id": path.stem} for path in before.glob("cells/*.json")]
    (one,) = [row for row in rows if row["choice"]["KSampler.seed"] == 1]
    picture = before / "cells" / one["id"] / one["images"][0]
    arguments = ["sweep", str(DEMO), "--folder", str(tmp_path), *AXES, "--expect", str(picture)]
    assert main(arguments) == 3 and main([*arguments, "--bound", "ssim=0"]) == 0


def test_bounds_are_of_numbers_of_the_table() -> None:
    assert parse_bound("2") == Bound("mean", 2.0) and parse_bound("ssim=0.98") == Bound("ssim", 0.98)
    for text in ("", "size=1", "mean=", "mean=-1", "nan", "mean=x"):
        with pytest.raises(Failure, match="--bound .*: write NAME=number with one of max, mean, lpips, psnr, ssim"):
            parse_bound(text)
    assert Bound("psnr", 40.0).holds({"max": 0.0, "psnr": None}) and not Bound("lpips", 1.0).holds({"max": 1.0})
    assert Bound("ssim", 0.9).holds({"ssim": 0.95, "max": 9.0}) and not Bound("ssim", 0.9).holds({"ssim": 0.8})


def test_what_cannot_be_compared_has_drifted(tmp_path: Path) -> None:
    for name, size in (("a", (8, 8)), ("b", (9, 8))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    one, other, bound = tmp_path / "a.png", tmp_path / "b.png", Bound("mean", 255.0)
    assert drift([tmp_path / "none.png"], [other], [bound])[0].startswith("the pictures cannot be compared")
    assert drift([one], [other], [bound])[0] == "the size of the picture is another"
    assert drift([one, one], [one], [bound])[0] == "2 pictures instead of 1"
    assert drift([], [one], [bound])[0] == "0 pictures instead of 1"


def test_wrong_places_are_refused(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["sweep", str(DEMO), "--folder", str(tmp_path / "now"), *AXES]
    for more, why in (
        (["--expect", str(tmp_path)], "write the folder of an earlier sweep, or a picture"),
        (["--expect", str(tmp_path / "none")], "write the folder of an earlier sweep, or a picture"),
        (["--expect", str(tmp_path / "now")], "is the folder of this sweep"),
        (["--bound", "1"], "--bound is of --expect"),
    ):
        assert main([*run, *more]) == 2 and why in capsys.readouterr().err
    cells = {"cells": {"a": {}}}
    (tmp_path / "sweep.json").write_text(json.dumps(cells))
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text(json.dumps({"images": ["../../x.png"]}))
    with pytest.raises(Failure, match="the cell a is damaged"):
        Expected(tmp_path)
