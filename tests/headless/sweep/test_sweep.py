"""Sweeps with the embedded host: cells, measurements, tables, the report, and going on after a kill."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.commands.cli import main, parser
from attention_patchbay.headless.commands.sweep import planned
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.pages import server
from attention_patchbay.headless.pages.workflow_file import embedded_infos
from attention_patchbay.headless.sweep.axes import Axis
from attention_patchbay.headless.sweep.cells import Cell, applied, cells, choices, listed, some
from attention_patchbay.headless.sweep.difference import difference, lpips_model
from attention_patchbay.headless.sweep.report import write_report
from attention_patchbay.headless.sweep.rounds import in_running_order
from attention_patchbay.headless.sweep.runner import Outcome, WorkerLost, backends_of
from attention_patchbay.headless.sweep.store import opened
from attention_patchbay.headless.sweep.workers import run_all
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from PIL import Image
from pyarrow import parquet

from .killed import killed_and_again

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "example_workflows" / "api" / "demo.json"
PROMPT = json.loads(DEMO.read_text())
QUICK = ["--axis", "KSampler.steps=2,3", "--axis", "KSampler.seed=1..2"]


def run(folder: Path, *arguments: str) -> int:
    return main(["sweep", str(DEMO), "--folder", str(folder), "--quiet", *arguments])


def test_choices_are_every_combination_but_for_those_that_move_together() -> None:
    axes = [Axis("1", "a", (1, 2)), Axis("1", "b", ("x", "y")), Axis("2", "c", (True, False))]
    assert len(choices(axes)) == 8
    together = choices(axes, [["1.a", "1.b"]])
    assert len(together) == 4 and {(c["1.a"], c["1.b"]) for c in together} == {(1, "x"), (2, "y")}
    assert some(together, 2, 0) == some(together, 2, 0) and len(some(together, 2, 1)) == 2
    with pytest.raises(Failure, match="as many values each, not 1.a 2, 2.d 3"):
        choices([*axes, Axis("2", "d", (1, 2, 3))], [["1.a", "2.d"]])
    with pytest.raises(Failure, match="are too many"):
        choices([Axis("1", str(i), tuple(range(10))) for i in range(8)])


def test_cells_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text('KSampler.seed,2.text\n1,"a, b"\n2,c\n')
    found = listed(tmp_path / "cells.csv")
    assert found == [{"KSampler.seed": 1, "2.text": "a, b"}, {"KSampler.seed": 2, "2.text": "c"}]
    (tmp_path / "cells.csv").write_text("a,b\n1\n")
    with pytest.raises(Failure, match="write a line with NODE.input names"):
        listed(tmp_path / "cells.csv")


def test_a_bypassed_node_hands_its_input_on() -> None:
    (patch,) = [id for id, node in PROMPT.items() if node["class_type"] == "PatchbayAttentionPatch"]
    (sampler,) = [id for id, node in PROMPT.items() if node["class_type"] == "KSampler"]
    before = PROMPT[patch]["inputs"]["model"]
    found = applied(PROMPT, {patch: "bypass"}, embedded_infos())
    assert patch not in found and found[sampler]["inputs"]["model"] == before
    assert applied(PROMPT, {patch: "on"}, embedded_infos()) == PROMPT


def test_each_output_of_a_bypassed_node_gets_the_input_beside_it() -> None:
    texts = {id: {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": id}} for id in ("2", "3")}
    control = {"positive": ["2", 0], "negative": ["3", 0], "control_net": ["9", 0], "image": ["8", 0]}
    sampler = {"class_type": "KSampler", "inputs": {"positive": ["4", 0], "negative": ["4", 1]}}
    prompt = {**texts, "4": {"class_type": "ControlNetApplyAdvanced", "inputs": control}, "5": sampler}
    found = applied(prompt, {"4": "bypass"}, embedded_infos())
    assert found["5"]["inputs"] == {"positive": ["2", 0], "negative": ["3", 0]}


def test_cells_with_the_same_model_run_after_each_other() -> None:
    axes = [Axis("KSampler", "seed", (1, 2, 3)), Axis("PatchbayAttentionPatch", "strength", (0.25, 0.75))]
    all = cells(PROMPT, choices(axes), embedded_infos(), {})
    ordered = in_running_order(PROMPT, all)
    strengths = [cell.choice.get("PatchbayAttentionPatch.strength") for cell in ordered]
    assert strengths == [None, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75] and ordered[0].baseline
    assert {cell.id for cell in ordered} == {cell.id for cell in all}


def test_axes_of_nodes_side_by_side_run_in_the_order_they_were_written() -> None:
    texts, backends = Axis("2", "text", ("a", "b")), Axis("PatchbayAttentionBackend", "backend", ("split", "sub_quad"))
    for axes in ([texts, backends], [backends, texts]):
        ordered = in_running_order(PROMPT, cells(PROMPT, choices(axes), embedded_infos(), {})[1:])
        first = [cell.choice[axes[0].name] for cell in ordered]
        assert first == [axes[0].values[0]] * 2 + [axes[0].values[1]] * 2


def test_an_axis_named_as_a_column_of_the_table_is_refused() -> None:
    prompt = {"3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "image"}}}
    with pytest.raises(Failure, match="'image' is a column of the table; write the id of the node"):
        cells(prompt, [{"image": "bypass"}], embedded_infos(), {})


def test_the_same_workflow_is_one_cell() -> None:
    infos = embedded_infos()
    seed = next(node for node in PROMPT.values() if node["class_type"] == "KSampler")["inputs"]["seed"]
    found = cells(PROMPT, [{"KSampler.seed": seed}, {"KSampler.seed": seed + 1}], infos, {})
    assert len(found) == 2 and found[0].baseline and found[0].choice == {"KSampler.seed": seed}
    assert len(cells(PROMPT, [{"KSampler.cfg": 3.0}, {"KSampler.cfg": 3}], infos, {"KSampler.cfg": 3})) == 1
    for choice, reason in (({"9999.a": 1}, "no node has that id"), ({"KSampler.sed": 1}, "has no input 'sed'; it has")):
        with pytest.raises(Failure, match=reason):
            cells(PROMPT, [choice], infos, {})


def test_a_baseline_on_an_axis_is_there_for_every_combination_of_the_others() -> None:
    infos, strength = embedded_infos(), "PatchbayAttentionPatch.strength"
    all = choices([Axis("KSampler", "seed", (1, 2)), Axis("PatchbayAttentionPatch", "strength", (0.25, 0.75))])
    for value, count in ((0.25, 4), (0.0, 6)):
        found = {tuple(cell.choice.values()): cell for cell in cells(PROMPT, all, infos, {strength: value})}
        assert len(found) == count
        for (seed, kept), cell in found.items():
            assert cell.reference == found[seed, value].id and cell.baseline == (kept == value)
    found = {tuple(cell.choice.values()): cell for cell in cells(PROMPT, all, infos, {"KSampler.steps": 5})}
    assert len(found) == 5 and {cell.reference for cell in found.values()} == {found[(5,)].id}


def test_a_node_may_have_an_axis_of_its_own_and_axes_of_its_inputs() -> None:
    infos, patch = embedded_infos(), "PatchbayAttentionPatch"
    axes = [Axis(patch, "", ("on", "bypass")), Axis(patch, "strength", (0.25, 0.75))]
    one, other = (choices(some) for some in (axes, axes[::-1]))
    for all in (one, other):
        found = cells(PROMPT, all, infos, {patch: "bypass"})
        assert len(found) == 3 and found[0].baseline and {cell.reference for cell in found} == {found[0].id}


def test_difference_is_that_of_the_formulas(tmp_path: Path) -> None:
    first = np.random.default_rng(0).integers(0, 200, (24, 16, 3), dtype=np.uint8)
    second = first.copy()
    second[3, 4] += 30
    for name, pixels in (("a", first), ("b", second)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    found = difference(tmp_path / "a.png", tmp_path / "b.png")
    square = 3 * 30**2 / first.size
    assert found["max"] == 30 and found["mean"] == pytest.approx(90 / first.size)
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / square)) and 0.9 < (found["ssim"] or 0.0) < 1.0
    same = difference(tmp_path / "a.png", tmp_path / "a.png")
    assert same["psnr"] is None and same["ssim"] == pytest.approx(1.0) and same["max"] == 0.0


@pytest.mark.parametrize("offline", [False, True])
def test_lpips_is_added_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    class LPIPS:  # 0.1.4
        def __init__(self, net: str, verbose: bool) -> None:
            if offline:
                raise OSError("no weights")

        def __call__(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            assert one.shape == other.shape == (1, 3, 24, 16) and one.min() == -1.0 and one.max() == 1.0
            return (one - other).abs().mean().view(1, 1, 1, 1)

    pixels = np.zeros((24, 16, 3), dtype=np.uint8)
    pixels[0] = 255
    for name, picture in (("a", pixels), ("b", pixels[::-1])):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=LPIPS))
    lpips_model.cache_clear()
    found = difference(tmp_path / "a.png", tmp_path / "b.png")
    lpips_model.cache_clear()
    assert found.get("lpips") == (None if offline else pytest.approx(2 * 2 / 24))


def test_a_sweep_measures_and_compares(tmp_path: Path) -> None:
    assert run(tmp_path, *QUICK, "--baseline", "KSampler.steps=2", "--baseline", "KSampler.seed=1") == 0
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and rows[0]["baseline"] == "True" and float(rows[0]["mean"]) == 0.0
    assert all(float(row["mean"]) > 0.0 and float(row["ssim"]) < 1.0 for row in rows[1:])
    assert all(float(row["seconds"]) > float(row["step_seconds"]) > 0.0 for row in rows)
    assert [row["warm_up"] for row in rows] == ["True", "False", "False", "False"]
    assert all(" x" in row["backends"] and (tmp_path / row["image"]).is_file() for row in rows)
    if sys.platform == "linux":
        assert all(int(row["peak_bytes"]) > 2**26 for row in rows)
    assert parquet.read_table(tmp_path / "table.parquet").num_rows == 4
    page = (tmp_path / "report.html").read_text()
    assert json.loads(re.search(r"const data = (.*)\n", page)[1])[0]["cell"] == rows[0]["cell"]  # type: ignore[index]
    assert "http" not in page.replace("http://www.w3.org", "")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.json")}
    assert run(tmp_path, *QUICK, "--baseline", "KSampler.steps=2", "--baseline", "KSampler.seed=1") == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.json")} == before


def test_other_axes_need_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--axis", "KSampler.steps=1") == 0
    assert run(tmp_path, "--axis", "KSampler.steps=2") == 2
    assert "holds a sweep of another workflow or other axes; give another --folder" in capsys.readouterr().err


OWN = ["table.csv", "table.parquet", "report.html", "sweep.json", ".lock"]


@pytest.mark.parametrize("name", OWN)
def test_a_folder_with_files_of_others_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("my own work")
    assert run(tmp_path, "--axis", "KSampler.steps=1") == 2
    assert f"holds a {name} that is of no sweep, and stays; give another --folder" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "my own work")]


def test_only_what_a_cell_left_unfinished_is_removed(tmp_path: Path) -> None:
    cell = Cell({"a.b": 0}, {"0": {}}, True)
    (tmp_path / "cells" / "mine.part").mkdir(parents=True)
    (tmp_path / "cells" / f"{cell.id}.part").mkdir()
    (tmp_path / "cells" / "movie.mp4.part").write_text("my own work")
    with opened(tmp_path, [cell]):
        assert {path.name for path in (tmp_path / "cells").iterdir()} == {"mine.part", "movie.mp4.part"}


def test_every_cell_is_checked_before_any_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--axis", "KSampler.steps=1,0") == 2
    assert "the cell KSampler.steps=0 cannot run" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_cells_for_a_server_are_checked_before_it_gets_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = json.loads(json.dumps(embedded_infos()))
    monkeypatch.setattr(server, "server_infos", lambda url, access: infos)
    for axis, why in (("KSampler.steps=1,0", "smaller than min"), ("PatchbayAttentionPatch.blocks=inptu:4", "inptu")):
        assert run(tmp_path, "--axis", axis, "--server", "http://127.0.0.1:9") == 2
        assert why in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_models_are_those_of_the_given_folder(tmp_path: Path) -> None:
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    (tmp_path / "models" / "checkpoints" / "other.safetensors").write_bytes(CHECKPOINT.read_bytes())
    axis = "CheckpointLoaderSimple.ckpt_name=other.safetensors"
    workflow = json.loads(DEMO.read_text())
    workflow["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "patchbay_demo.safetensors"}}
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    arguments = ["sweep", str(tmp_path / "w.json"), "--quiet", "--axis", axis, "--baseline", "KSampler.steps=1"]
    assert main([*arguments, "--folder", str(tmp_path / "a"), "--models", str(tmp_path / "models")]) == 0
    assert main([*arguments, "--folder", str(tmp_path / "b")]) == 2


def test_one_folder_is_of_one_sweep_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tmp_path, []), pytest.raises(Failure, match="another sweep runs in"), opened(tmp_path, []):
        pass
    with opened(tmp_path, []):
        assert run(tmp_path, "--axis", "KSampler.steps=1") == 2
    assert "another sweep runs in" in capsys.readouterr().err


def test_every_picture_of_a_batch_counts(tmp_path: Path) -> None:
    axes = ["--axis", "EmptyLatentImage.batch_size=2", "--axis", "KSampler.steps=1,2", "--baseline", "KSampler.steps=1"]
    assert run(tmp_path, *axes, "--baseline", "EmptyLatentImage.batch_size=2") == 0
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [len(json.loads(row["images"])) for row in rows] == [2, 2]
    pairs = zip(*(json.loads(row["images"]) for row in rows), strict=True)
    each = [difference(tmp_path / one, tmp_path / other) for one, other in pairs]
    assert float(rows[1]["max"]) == max(found["max"] or 0.0 for found in each)
    assert float(rows[1]["mean"]) == pytest.approx(np.mean([found["mean"] for found in each]))
    assert float(rows[1]["ssim"]) == pytest.approx(np.mean([found["ssim"] for found in each]))


def test_previews_count_where_nothing_is_saved(tmp_path: Path) -> None:
    workflow = json.loads(DEMO.read_text())
    (saved,) = [id for id, node in workflow.items() if node["class_type"] == "SaveImage"]
    workflow[saved] = {"class_type": "PreviewImage", "inputs": {"images": workflow[saved]["inputs"]["images"]}}
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    arguments = ["sweep", str(tmp_path / "w.json"), "--folder", str(tmp_path / "s"), "--quiet"]
    assert main([*arguments, "--axis", "KSampler.steps=1", "--baseline", "KSampler.steps=2"]) == 0
    with (tmp_path / "s" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["image"] and (tmp_path / "s" / row["image"]).is_file() for row in rows) and float(rows[1]["mean"])


def test_a_cell_that_runs_again_is_compared_again(tmp_path: Path) -> None:
    first = Cell({"a.b": 0}, {"0": {}}, True)
    all = [first, Cell({"a.b": 1}, {"1": {}}, reference=first.id)]
    with opened(tmp_path, all) as store:
        for shades in ((0, 10), (0, 30)):
            for cell, shade in zip(all, shades, strict=True):
                store.place(cell).mkdir()
                Image.new("RGB", (8, 8), (shade,) * 3).save(store.place(cell) / "a.png")
                store.keep(cell, Outcome(["a.png"]), "here")
            assert store.rows()[1]["mean"] == shades[1]


def test_a_failed_cell_is_kept_with_its_error(tmp_path: Path) -> None:
    blocks = "PatchbayAttentionPatch.blocks=middle,output:99"
    assert run(tmp_path, "--axis", blocks, "--baseline", "KSampler.steps=2") == 1
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("cells/*.json")]
    (failed,) = [row for row in rows if row["error"]]
    assert "output:99" in failed["error"] and failed["choice"] == {"PatchbayAttentionPatch.blocks": "output:99"}


def test_what_is_damaged_costs_its_own_cell_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    all = [Cell({"a.b": number}, {str(number): {}}, number == 0) for number in range(9)]
    all = [dataclasses.replace(cell, reference=all[0].id) for cell in all]
    with opened(tmp_path, all) as store:
        for cell in all:
            store.place(cell).mkdir()
            Image.new("RGB", (8, 8), (cell.choice["a.b"],) * 3).save(store.place(cell) / "a.png")
            store.keep(cell, Outcome(["a.png"]), "here")
        assert len(store.tables()) == 9 and store.waiting() == []
    files = [tmp_path / "cells" / f"{cell.id}.json" for cell in all]
    for file, text in zip(files[1:5], ("", '{"error": ', "[]", '{"error": "", "images": [3]}'), strict=True):
        file.write_text(text)
    (tmp_path / "cells" / all[5].id / "a.png").unlink()
    (tmp_path / "cells" / all[6].id / "a.png").write_bytes(b"")
    (tmp_path / "cells" / all[7].id / "a.png").write_bytes(b"no picture")
    (kept,) = (tmp_path / "cells").glob(f"{all[8].id}.*.difference")
    kept.write_text("[")
    (tmp_path / "sweep.json").write_text('{"cells": ')
    (tmp_path / "cells" / "x.part").write_text("")
    with opened(tmp_path, all) as store:
        assert store.waiting() == all[1:8]
        rows = store.tables()
        write_report(tmp_path, rows)
    assert [(row["cell"], row["mean"]) for row in rows] == [(all[0].id, 0.0), (all[8].id, 8.0)]
    assert json.loads((tmp_path / "sweep.json").read_text())["cells"][all[1].id] == {"a.b": 1}
    assert "is damaged" in caplog.text and "is gone or damaged; the cell runs again" in caplog.text


def test_what_is_no_picture_is_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Cell({"a.b": 0}, {"0": {}}, True)
    all = [first, Cell({"a.b": 1}, {"1": {}}, reference=first.id)]
    with opened(tmp_path, all) as store:
        for cell in all:
            store.place(cell).mkdir()
            (store.place(cell) / "a.mp4").write_bytes(b"a film")
            store.keep(cell, Outcome(["a.mp4"]), "here")
        assert store.waiting() == [] and [row["mean"] for row in store.rows()] == [None, None]
    assert "cannot be compared" in caplog.text


WRONG: dict[str, Any] = {
    "seconds": [10**400, float("nan"), float("inf"), True, -1.0, None],
    "step_seconds": [float("nan"), False],
    "peak_bytes": [10**40, "x"],
    "images": [["../../outside.png"], ["/etc/passwd"], ["none.png"], ["\0"], ["."]],
    "digests": [[], {"a.png": "0"}, {"a.png": 3}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_a_cell_file_that_cannot_be_runs_again(name: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"x")
    cell = Cell({"a.b": 0}, {"0": {}}, True)
    with opened(tmp_path, [cell]) as store:
        store.place(cell).mkdir()
        Image.new("RGB", (8, 8)).save(store.place(cell) / "a.png")
        store.keep(cell, Outcome(["a.png"]), "here")
        assert store.waiting() == []
        path = tmp_path / "cells" / f"{cell.id}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
        assert store.waiting() == [cell] and store.tables() == []


def test_a_picture_that_is_cut_off_runs_its_cell_again(tmp_path: Path) -> None:
    cell = Cell({"a.b": 0}, {"0": {}}, True)
    with opened(tmp_path, [cell]) as store:
        store.place(cell).mkdir()
        Image.new("RGB", (64, 64)).save(store.place(cell) / "a.png")
        store.keep(cell, Outcome(["a.png"]), "here")
    picture = tmp_path / "cells" / cell.id / "a.png"
    picture.write_bytes(picture.read_bytes()[:-20])
    with opened(tmp_path, [cell]) as store:
        assert store.waiting() == [cell]


def test_every_seed_can_be_reported(tmp_path: Path) -> None:
    seeds = [0, 2**53 + 1, 2**63, 2**64 - 1]
    mixed = [0.5, "a", -1, 2**63]
    all = [Cell({"3.seed": seed, "3.cfg": cfg}, {str(seed): {}}) for seed, cfg in zip(seeds, mixed, strict=True)]
    with opened(tmp_path, all) as store:
        for cell in all:
            store.keep(cell, Outcome(), "here")
        write_report(tmp_path, store.tables())
    table = parquet.read_table(tmp_path / "table.parquet")
    assert str(table["lpips"].type) == "double" and table["lpips"].null_count == len(seeds)  # nothing was measured
    assert table["3.seed"].to_pylist() == seeds and str(2**64 - 1) in (tmp_path / "table.csv").read_text()
    assert [json.loads(text) for text in table["3.cfg"].to_pylist()] == mixed
    assert f'"{2**64 - 1}"' in (tmp_path / "report.html").read_text()


def test_the_report_finds_pictures_whatever_they_are_called(tmp_path: Path) -> None:
    write_report(tmp_path, [{"cell": "a", "images": ["cells/a/50% #1?.png"]}])
    assert '"cells/a/50%25%20%231%3F.png"' in (tmp_path / "report.html").read_text()


def test_a_text_stays_as_it_is_written(tmp_path: Path) -> None:
    prompt = json.loads(DEMO.read_text())
    (text,) = [id for id, node in prompt.items() if node["inputs"].get("text", "").startswith("a red circle")]
    (tmp_path / "cells.csv").write_text(f"{text}.text,KSampler.seed,KSampler.cfg\n1.50,18446744073709551615,1.50\n")
    args = parser().parse_args(["sweep", str(DEMO), "--list", str(tmp_path / "cells.csv")])
    cell = next(cell for cell in planned(args, prompt, embedded_infos())[0] if not cell.baseline)
    assert list(cell.choice.values()) == ["1.50", 2**64 - 1, 1.5]
    args = parser().parse_args(["sweep", str(DEMO), "--axis", f"{text}.text=true,1.50"])
    found = [cell.choice for cell in planned(args, prompt, embedded_infos())[0] if not cell.baseline]
    assert [choice[f"{text}.text"] for choice in found] == ["true", "1.50"]


def test_prompts_cannot_break_the_report(tmp_path: Path) -> None:
    text = "</script><script>alert(1)</script>"
    write_report(tmp_path, [{"cell": "a", "2.text": text, "images": []}])
    page = (tmp_path / "report.html").read_text()
    assert text not in page and page.count("</script>") == 1


def test_a_sweep_takes_the_texts_that_another_left(tmp_path: Path) -> None:
    axes = ["--axis", "KSampler.steps=2", "--cache", str(tmp_path / "cache")]
    assert run(tmp_path / "one", *axes) == 0
    results = tmp_path / "cache" / "patchbay-results"
    kept = {path.name: path.stat().st_ino for path in results.glob("*.safetensors")}
    assert run(tmp_path / "other", *axes) == 0
    assert {path.name: path.stat().st_ino for path in results.glob("*.safetensors")} == kept
    assert len(kept) == 2 and not (tmp_path / "one" / "cache").exists()
    pictures = [
        [path.read_bytes() for path in sorted(tmp_path.glob(f"{name}/cells/*/*.png"))] for name in ("one", "other")
    ]
    assert pictures[0] == pictures[1] != []


def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "sweep", str(DEMO)]
    command += [
        "--folder",
        str(tmp_path / "s"),
        "--quiet",
        "--axis",
        "KSampler.seed=1..6",
        "--axis",
        "KSampler.steps=20",
    ]
    killed_and_again(command, tmp_path / "s", 7)
    assert not list(tmp_path.glob("s/cells/*.part"))


def test_an_interrupted_sweep_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(waiting: list[Cell], *others: Any) -> None:
        run_all(waiting[:1], *others)
        raise KeyboardInterrupt

    arguments = ["--axis", "KSampler.seed=1,2", "--axis", "KSampler.steps=1"]
    with monkeypatch.context() as patched:
        patched.setattr("attention_patchbay.headless.commands.sweep.run_all", interrupted)
        assert run(tmp_path, *arguments) == 130
    error = capsys.readouterr().err.splitlines()
    kept = f"patchbay: 1 of 3 cells are kept in {tmp_path}; the same command goes on"
    assert error[-2:] == [kept, "patchbay: interrupted"]
    assert run(tmp_path, *arguments) == 0


class Fake:
    """A runner that counts, and is lost at a cell."""

    def __init__(
        self, name: str, lost_at: int = -1, memory: int | None = None, weights: dict[str, int] | None = None
    ) -> None:
        self.name, self.lost_at, self.ran = name, lost_at, 0
        self.memory, self.weights = memory, weights or {}

    def need(self, prompt: Any) -> int:
        return sum(self.weights.get(node.get("model", ""), 0) for node in prompt.values())

    def run(self, prompt: Any, folder: Path) -> Outcome:
        self.ran += 1
        if self.ran == self.lost_at:
            raise WorkerLost(f"{self.name} is gone")
        time.sleep(0.01)
        return Outcome(seconds=0.01)


def test_what_a_lost_worker_leaves_runs_on_another(tmp_path: Path) -> None:
    all = [Cell({"a": i}, {str(i): {}}) for i in range(12)]
    told: list[int] = []
    with opened(tmp_path, all) as store:
        workers = [Fake("one", lost_at=3), Fake("two")]
        run_all(all, workers, store, lambda cell, outcome: told.append(cell.choice["a"]))
        assert sorted(told) == list(range(12)) and store.waiting() == []
    with opened(tmp_path / "again", all) as store:
        with pytest.raises(Failure, match="every worker is lost"):
            run_all(all, [Fake("one", lost_at=3), Fake("two", lost_at=2)], store, lambda cell, outcome: None)
        assert len(store.waiting()) == 9


def test_a_cell_goes_to_a_worker_with_memory_for_its_models(tmp_path: Path) -> None:
    names = ["small", "large", "huge", "small", "large", "small"]
    all = [Cell({"a": number}, {str(number): {"model": name}}) for number, name in enumerate(names)]
    weights = {"small": 1, "large": 5, "huge": 50}
    workers = [Fake("little", memory=2, weights=weights), Fake("big", memory=8, weights=weights)]
    with opened(tmp_path, all) as store:
        run_all(all, workers, store, lambda cell, outcome: None)
        at = [(store.result(cell) or {})["worker"] for cell in all]
    assert {where for where, name in zip(at, names, strict=True) if name != "small"} == {"big"}  # huge fits nowhere
    assert "little" in at


def test_calls_are_added_up_over_reports() -> None:
    row = {"function": "pytorch", "calls": 3}
    assert backends_of({"1": {"table": [row, {"function": "basic", "calls": 1}]}, "2": {"table": [row]}}) == {
        "pytorch": 6,
        "basic": 1,
    }
