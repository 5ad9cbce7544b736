"""What repeats of a setting say together, against SciPy."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.sweep.study import Study
from attention_patchbay.headless.sweep.summary import as_csv, as_text, summary
from scipy import stats

from .test_repeats import ROOT

SETTINGS, REPEATS = ("x", "y"), 6
STUDY = Study(("8.seed",), "", "sub_quad")


def row(cell: str, seed: int, reference: str, time: float, mean: float, **more: Any) -> dict[str, Any]:
    own = {"cell": cell, "reference": reference, "baseline": False, "floor": False, "8.seed": seed, "warm_up": False}
    return {**own, "seconds": 9.0, "step_seconds": time, "mean": mean, "ssim": None, "error": "", "images": [], **more}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    random, found = np.random.default_rng(0), []
    for seed in range(REPEATS):
        slow = float(random.normal(1.0, 0.3))
        found.append(row(f"base{seed}", seed, f"base{seed}", slow, 0.0, baseline=True, warm_up=seed == 0))
        found.append(row(f"noise{seed}", seed, f"base{seed}", slow, float(random.uniform(0, 0.1)), floor=True))
        for k, setting in enumerate(SETTINGS):
            far = float(random.uniform(0.0, 0.1)) + k
            more = {"8.steps": setting}
            found.append(row(f"{setting}{seed}", seed, f"base{seed}", slow + 0.1 + random.normal(0, 0.01), far, **more))
    return found


def of(rows: list[dict[str, Any]], name: str, start: str) -> np.ndarray:
    return np.array([one[name] for one in rows if one["cell"].startswith(start)])


def test_differences_are_paired_by_seed_and_corrected(rows: list[dict[str, Any]]) -> None:
    base, noise, one, other = summary(rows, STUDY)
    assert base["baseline"] and noise["floor"] and one["setting"] == {"8.steps": "x"}
    chances = {}
    for found, setting in ((one, "x"), (other, "y")):
        times = of(rows, "step_seconds", setting)[1:], of(rows, "step_seconds", "base")[1:]
        above = of(rows, "mean", setting), of(rows, "mean", "noise")
        chances[setting] = [stats.ttest_rel(*times).pvalue, stats.ttest_rel(*above).pvalue]
        assert found["slower"]["mean"] == pytest.approx((times[0] - times[1]).mean()) and found["slower"]["n"] == 5
        low, high = stats.ttest_1samp(above[0], 0.0).confidence_interval()
        assert (found["mean"]["low"], found["mean"]["high"]) == (pytest.approx(max(low, 0.0)), pytest.approx(high))
    for place, name in enumerate(("slower", "above_floor")):
        small, large = sorted([(chances["x"][place], 0), (chances["y"][place], 1)])
        wanted = [0.0, 0.0]
        wanted[small[1]], wanted[large[1]] = min(1.0, 2 * small[0]), max(min(1.0, 2 * small[0]), large[0])
        assert [one[name]["p"], other[name]["p"]] == pytest.approx(wanted)
    assert other["above_floor"]["p"] < 0.05 < one["above_floor"]["p"]


def test_each_chance_is_corrected_and_a_picture_like_the_baselines_is_no_finding(rows: list[dict[str, Any]]) -> None:
    random = np.random.default_rng(1)
    for one in rows:
        one["ssim"] = 1.0 if one["baseline"] else 1.0 - float(random.exponential(1e-3))
        one["lpips"] = 0.0 if one["baseline"] else float(random.exponential(1e-3))
    base, *others = summary(rows, STUDY)
    assert [base[name]["p"] for name in ("mean", "ssim", "lpips")] == [1.0, 1.0, 1.0]
    for name, neutral in (("mean", 0.0), ("ssim", 1.0), ("lpips", 0.0)):
        plain = [stats.ttest_1samp(of(rows, name, start), neutral).pvalue for start in ("noise", "x", "y")]
        wanted, most = dict[int, float](), 0.0
        for rank, place in enumerate(np.argsort(plain)):
            most = max(most, min(1.0, plain[place] * (3 - rank)))
            wanted[int(place)] = most
        assert [one[name]["p"] for one in others] == pytest.approx([wanted[place] for place in range(3)]), name
        assert all(one[name]["high"] <= 1.0 for one in others if name == "ssim")


def test_the_first_cell_of_a_worker_has_no_part_in_times(rows: list[dict[str, Any]]) -> None:
    base = summary(rows, STUDY)[0]
    assert base["warm_ups"] == 1
    assert base["time"] == pytest.approx(np.quantile(of(rows, "step_seconds", "base")[1:], (0.25, 0.5, 0.75)))
    rows[0]["step_seconds"] = 1000.0
    assert summary(rows, STUDY)[0]["time"] == base["time"]


def test_each_of_several_prompts_counts_once(rows: list[dict[str, Any]]) -> None:
    for one in rows:
        one["2.text"] = "circle" if one["8.seed"] < 2 else "square"
    found = summary(rows, Study(("8.seed",), "2.text", "sub_quad"))[2]
    far = of(rows, "mean", "x")
    assert found["mean"]["n"] == 2 and found["mean"]["mean"] == pytest.approx((far[:2].mean() + far[2:].mean()) / 2)


def test_failed_cells_are_counted_and_left_out(rows: list[dict[str, Any]]) -> None:
    rows[2] |= {"error": "no memory", "mean": None, "step_seconds": None}
    found = summary(rows, STUDY)[2]
    assert found["failed"] == 1 and found["mean"]["n"] == REPEATS - 1
    for one in rows:
        one |= {"error": "gone", "mean": None}
    assert all(one["time"] is None and one["mean"] is None for one in summary(rows, STUDY))


def test_settings_are_a_table_and_lines(rows: list[dict[str, Any]]) -> None:
    found = summary(rows, STUDY)
    table = list(csv.DictReader(io.StringIO(as_csv(found).decode())))
    assert [line["8.steps"] for line in table] == ["", "", "x", "y"] and table[2]["n"] == str(REPEATS)
    assert float(table[3]["mean_low"]) == pytest.approx(found[3]["mean"]["low"])
    line = as_text(found[3])
    assert line.startswith("8.steps=y  n 6  median ") and "above the noise floor by" in line and " p " in line
    assert "time against the baseline +0." in line and " s [" in line and " levels [" in line
    assert "(quartiles " in line and "n 6 (1 to warm up)  median" in as_text(found[0])


def test_a_repeated_sweep_says_how_sure_it_is(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workflow = ROOT / "example_workflows" / "api" / "block_skip.json"
    arguments = ["sweep", str(workflow), "--folder", str(tmp_path), "--quiet", "--repeat", "2", "--floor", "sub_quad"]
    arguments += ["--axis", "PatchbayBlockSkip.blocks=each(output:2-3)", "--axis", "KSampler.steps=2"]
    arguments += ["--baseline", "PatchbayBlockSkip=bypass", "--baseline", "KSampler.steps=2"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count("above the noise floor by") == 2 and "noise floor  n 2" in said
    table = list(csv.DictReader(io.StringIO((tmp_path / "settings.csv").read_text())))
    assert len(table) == 4 and all(0.0 < float(line["mean_mean"]) < 255.0 for line in table[1:])
    assert 10 * float(table[1]["mean_mean"]) < float(table[3]["mean_mean"])  # the floor, and output:3
    page = (tmp_path / "report.html").read_text()
    assert '"maps": {"PatchbayBlockSkip.blocks": [{"type": "input"' in page and "const settings = [{" in page
    assert main(arguments) == 0  # nothing runs again
