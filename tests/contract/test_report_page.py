"""Open the report of a sweep in a browser, from its file and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.sweep.report import write_report
from attention_patchbay.headless.sweep.study import Study
from attention_patchbay.headless.sweep.summary import summary
from PIL import Image

from .comfyui_server import ROOT
from .pages import MARKS, driven

pytestmark = MARKS
CHILD = Path(__file__).with_name("report_child.py")
DEMO = ROOT / "example_workflows" / "api" / "demo.json"
COLOURS = [[0, 33, 77], [64, 77, 107], [125, 122, 120], [189, 173, 105], [255, 235, 69]]  # of heatmaps
ROUNDED = 3  # levels of 255: a difference is rounded before it is made that much brighter
STEPS, BLOCKS = "KSampler.steps", "PatchbayAttentionPatch.blocks"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    arguments = ["sweep", str(DEMO), "--folder", str(folder), "--quiet", "--axis", f"{STEPS}=3,4"]
    arguments += ["--axis", f"{BLOCKS}=middle,output:99", "--axis", "EmptyLatentImage.batch_size=2"]
    for value in (f"{STEPS}=3", f"{BLOCKS}=middle", "EmptyLatentImage.batch_size=2"):
        arguments += ["--baseline", value]
    assert main(arguments) == 1
    found: dict[str, Any] = driven("report_child.py", folder, folder / "report.html", folder / "report.png")
    return found | {"folder": folder}


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
    ends = ["inset(0px 100% 0px 0px)", "inset(0px 0% 0px 0px)"]
    assert report["clip"] == [*ends, "inset(0px 75% 0px 0px)"]
    assert report["points"] == 2


def test_a_strip_along_an_axis_is_walked_by_keys(report: dict[str, Any]) -> None:
    before, after = report["strip"]
    assert [text.split(",")[0] for text, _ in before] == ["3 (baseline)", "4"] and "diff" in before[1][0]
    assert [on for _, on in before] == [on for _, on in after] == ["false", "true"]
    assert report["told"].endswith("% apart on average.")


def test_the_difference_of_two_pictures_is_painted(report: dict[str, Any]) -> None:
    folder = report["folder"]
    found = [unquote(name) for name in report["walked"]]
    below, above = (np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.float64) for name in found)
    part = np.abs(below - above).mean(-1) / 255 / (int(report["most"]) / 100)
    assert 0.5 < part.max() <= 1.0
    wanted = np.stack([np.interp(part, np.linspace(0, 1, 5), channel) for channel in np.array(COLOURS).T], -1)
    painted = np.asarray(Image.open(folder / "difference.png").convert("RGB"), dtype=np.float64)
    times = painted.shape[0] // below.shape[0]
    assert painted.shape == (times * below.shape[0], times * below.shape[1], 3) and times == 4
    assert np.abs(painted[times // 2 :: times, times // 2 :: times] - wanted).max() <= ROUNDED


def test_it_fits_a_telephone(report: dict[str, Any]) -> None:
    assert not report["wider than a telephone"]


@pytest.fixture(scope="module")
def floored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a setting that changes next to nothing, beside a noise floor."""
    folder, rows = tmp_path_factory.mktemp("floored"), list[dict[str, Any]]()
    for seed in range(3):
        base = f"base{seed}"
        for cell, value, mean in ((base, "bypass", 0.0), (f"floor{seed}", "bypass", 2e-5), (f"on{seed}", "on", 1e-4)):
            role = {"baseline": cell == base, "floor": cell.startswith("floor"), "reference": base, "repeat": seed}
            times = {"seconds": 1.0, "step_seconds": 0.08 + seed / 100, "warm_up": False, "error": ""}
            far = {"mean": mean * (1.0 + seed / 60), "max": 1.0, "ssim": 1.0}
            Image.new("RGB", (64, 64), (0, 90, 170)).save(folder / f"{cell}.png")
            shown = {"images": [f"{cell}.png"], "image": f"{cell}.png"}
            rows.append(
                {"cell": cell, "PatchbayTunedAttention": value, "8.seed": seed, **role, **times, **far, **shown}
            )
    study = Study(("8.seed",), "", "sub_quad")
    write_report(folder, rows, summary(rows, study), study)
    found: dict[str, Any] = driven("report_child.py", folder, folder / "report.html", folder / "floored.png")
    return found


def test_no_label_of_the_plot_is_cut(report: dict[str, Any], floored: dict[str, Any]) -> None:
    assert report["cut"] == floored["cut"] == [] and floored["points"] == 9


def test_the_noise_floor_is_named_beside_its_baseline(floored: dict[str, Any]) -> None:
    assert floored["names"] == ["noise floor"] * 3
    names = [text for text, _ in floored["strip"][0]]
    assert names == ["bypass (baseline)", "bypass (noise floor), diff 0.00002067", "on, diff 0.0001033"]


def test_one_comparison_is_corrected_for_nothing(floored: dict[str, Any]) -> None:
    (note,) = floored["note"]
    assert "Bold is a p below 0.05." in note and "corrected" not in note and floored["errors"] == []


COUNT = 10_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("many")
    Image.new("RGB", (8, 8), (0, 90, 170)).save(folder / "a.png")
    own = {"baseline": False, "reference": "0", "repeat": 0, "floor": False, "warm_up": False, "error": ""}
    own |= {"peak_bytes": 10**9, "peak_of": "process", "worker": "embedded", "backends": "pytorch x240, sub_quad x80"}
    rows = [
        {"cell": f"{number:x}", **own, "8.seed": number % 100, "8.cfg": number // 100, "seconds": 1.0}
        | {
            "step_seconds": (number * 7919 % COUNT) / COUNT,
            "mean": number / COUNT,
            "images": ["a.png"],
            "image": "a.png",
        }
        for number in range(COUNT)
    ]
    write_report(folder, rows)
    found: dict[str, Any] = driven("many_report_child.py", folder, folder / "report.html", folder / "many.png")
    return found | {"bytes": (folder / "report.html").stat().st_size}


def test_of_ten_thousand_cells_only_what_is_looked_at_is_in_the_page(many: dict[str, Any]) -> None:
    assert many["errors"] == [] and many["summary"].startswith("10000 cells") and many["bytes"] < 10 * 2**20
    elements, lines, pictures = many["at first"]
    assert lines < 150 and 0 < pictures < COUNT / 10 and elements < 5 * COUNT
    assert many["one place"][2] <= 400


def test_ten_thousand_lines_scroll_and_sort(many: dict[str, Any]) -> None:
    top, middle, end = many["lines"]
    assert top[0] == 2 and abs(middle[0] - COUNT / 2) < 30 and end[1] == COUNT + 1
    for _, _, shown, least, most in many["lines"]:
        assert shown > 10 and least == most == 26
    assert many["after sorting"][0] == 2 and "0.0001" in many["sorted"][1]
    before, after, chosen = many["options"]
    assert before == 1 and after == COUNT and chosen == "0"
