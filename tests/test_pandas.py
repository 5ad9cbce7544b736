"""What the API and sweeps give as rows, in DataFrames; pandas takes 80 MB, and so is no part of the dev extra."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import attention_patchbay as ap
import pytest
from attention_patchbay.headless.commands.cli import main

pandas = pytest.importorskip("pandas", reason="pandas is not installed; pip install pandas runs these tests")
DEMO = Path(__file__).parents[1] / "example_workflows" / "api" / "demo.json"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    pipe = ap.load()
    patched = ap.patch(pipe, "BackendRules", rules="output 50-100% -> basic; * -> auto")
    patched = ap.patch(patched, "AttentionTemperature", temperature=2.0, blocks="output")
    patched = ap.capture(patched, "a red circle", "red, circle")
    run = ap.sample(patched, "a red circle", steps=2).run
    assert run is not None
    found = ap.report(run)
    tuned = ap.tune(pipe, lambda pipe: ap.sample(pipe, "a red circle", steps=1), seconds=0.2)
    ran = {"table": found.table, "steps": found.steps, "fates": found.fates, "maps": ap.maps(run)}
    return {**ran, "tune": tuned.rows, "blocks": ap.blocks(pipe), "methods": ap.methods()}


NUMBERS = {
    "table": {"calls"},
    "steps": {"step", "calls", "fallbacks", "seconds"},
    "fates": {"number"},
    "maps": {"calls", "height", "width", "attention", "entropy"},
    "tune": {"seconds", "error"},
    "blocks": {"heads", "dim_head"},
    "methods": set(),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_rows_are_a_frame_as_they_stand(name: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    frame = pandas.DataFrame(rows[name])
    assert frame.to_dict("records") == rows[name]
    assert set(frame.select_dtypes("number").columns) == NUMBERS[name]
    text = io.StringIO(frame.to_csv(index=False))
    assert len(pandas.read_csv(text)) == len(rows[name])


def test_calls_are_counted_by_function(rows: dict[str, list[dict[str, Any]]]) -> None:
    calls = [pandas.DataFrame(rows[name]).groupby("function")["calls"].sum().to_dict() for name in ("table", "steps")]
    assert calls[0] == calls[1] and "basic" in calls[0]


def test_no_run_is_an_empty_frame() -> None:
    assert pandas.DataFrame(ap.report(None).table).empty


def test_the_table_of_a_sweep_is_one_frame_in_each_of_its_files(tmp_path: Path) -> None:
    axes = ["--axis", "KSampler.steps=1", "--axis", "PatchbayAttentionPatch=on,bypass"]
    axes += ["--axis", f"KSampler.seed={2**63}"]
    assert main(["sweep", str(DEMO), "--folder", str(tmp_path), "--quiet", *axes]) == 0
    table, text = pandas.read_parquet(tmp_path / "table.parquet"), pandas.read_csv(tmp_path / "table.csv")
    assert list(table.columns) == list(text.columns) and len(table) == len(text) == 3
    measured = ["seconds", "step_seconds", "peak_bytes", "max", "mean", "psnr", "ssim", "lpips"]
    for frame in (table, text):
        assert set(measured) <= set(frame.select_dtypes("number").columns)
        assert frame["seconds"].gt(0).all() and frame["KSampler.steps"].max() == 1
    assert table["KSampler.seed"].max() == 2**63  # CSV has no kinds: there pandas takes such seeds for text
    pandas.testing.assert_frame_equal(table[measured], text[measured])
    assert table["images"].iloc[0][0] == table["image"].iloc[0]
    assert set(table.groupby("PatchbayAttentionPatch")["mean"].mean().index) == {"on", "bypass"}
