"""The table's command: what it measures, keeps and goes on with."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import table
from results import append_line, read_lines
from table_cells import MEASURED

from .conftest import BENCHMARKS

COLUMNS = ["default", "neutral", "merging"]


def command(raw: Path, *more: str) -> list[str]:
    return [sys.executable, str(BENCHMARKS / "table.py"), str(raw), "--device", "cpu", "--steps", "1", *more]


def cell(column: str, **more: Any) -> dict[str, Any]:
    return {"cell": {"column": column, "rules": "", **more}}


class Children:
    """Children in the place of processes: each gives the lines of a script and keeps the job it got."""

    def __init__(self, *scripts: list[dict[str, Any]]) -> None:
        self.scripts, self.jobs = list(scripts), []

    def __call__(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.jobs.append(job)
        yield from self.scripts.pop(0)


def measured(raw: Path, children: Children, monkeypatch: pytest.MonkeyPatch, columns: list[str] = COLUMNS) -> None:
    monkeypatch.setattr(table, "lines_of", children)
    table.Table(raw, 1, "cpu", None, False).measure("demo", columns)


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw.jsonl"
    measured(raw, Children([cell("default")]), monkeypatch, ["default"])
    raw.write_bytes(raw.read_bytes() + b'{"measure": "step", "row": "demo", "column": "neu')
    children = Children([cell("neutral"), cell("merging")])
    measured(raw, children, monkeypatch)
    assert [job["columns"] for job in children.jobs] == [["neutral", "merging"]]
    measured(raw, Children(), monkeypatch)  # no child at all
    assert [line["column"] for line in read_lines(raw)] == COLUMNS


def test_other_settings_are_other_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw.jsonl"
    measured(raw, Children([cell("default")]), monkeypatch, ["default"])
    monkeypatch.setattr(table, "lines_of", Children())
    for steps, dtype in ((2, None), (1, "bfloat16")):
        assert table.Table(raw, steps, "cpu", dtype, False).missing("demo", ["default"], "step") == ["default"]
    assert table.Table(raw, 1, "cpu", "float32", False).missing("demo", ["default"], "step") == []


def test_a_child_that_dies_takes_one_column_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw.jsonl"
    dies = [{"begin": "default"}, cell("default"), {"begin": "neutral"}, {}, {"failed": "killed"}]
    children = Children(dies, [{"begin": "merging"}, cell("merging")])
    measured(raw, children, monkeypatch)
    assert [job["columns"] for job in children.jobs] == [COLUMNS, ["merging"]]
    assert [line.get("failed") for line in read_lines(raw)] == [None, "killed", None]


def test_a_model_that_cannot_be_loaded_is_told_in_each_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw.jsonl"
    measured(raw, Children([{"failed": "OutOfMemoryError: no"}]), monkeypatch)
    assert {line["failed"] for line in read_lines(raw)} == {"OutOfMemoryError: no"} and len(read_lines(raw)) == 3


def test_the_words_of_a_process_that_died() -> None:
    assert "memory is used up" in table.last_words(-signal.SIGKILL, "")
    assert table.last_words(1, "Traceback\nValueError: no\n") == "the process ended with 1: Traceback ValueError: no"


def test_rows_of_comfyui_are_left_out_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert table.runnable(["sd15-512", "comfyui-wan"]) == ["sd15-512"]
    assert "COMFYUI_PATH" in capsys.readouterr().err


def test_the_smallest_row_is_measured_ended_and_gone_on_with(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    wanted = ["--rows", "demo", "--columns", *COLUMNS]
    with subprocess.Popen(command(raw, *wanted), stderr=subprocess.PIPE, text=True) as process:
        while not read_lines(raw) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert "the same command goes on" in process.communicate()[1]
        assert process.returncode == 130
    first = read_lines(raw)
    assert 1 <= len(first) < 6
    done = subprocess.run(command(raw, *wanted), capture_output=True, text=True, check=True)
    lines = read_lines(raw)
    assert lines[: len(first)] == first
    assert [(line["measure"], line["column"]) for line in lines] == [(m, c) for m in ("step", "peak") for c in COLUMNS]
    default, neutral, merging = (line for line in lines if line["measure"] == "step")
    assert default["difference"] == neutral["difference"] == 0.0 < default["floor"] < 1e-4
    assert merging["difference"] > 100 * merging["floor"] and merging["error"] > 100 * default["error"] > 0
    assert neutral["functions"] == {"pytorch": 14} and 0 < default["share"] < 1
    assert all(len(line["ms"]) == 1 for line in (default, neutral, merging))
    assert all(line["peak"] > 50e6 for line in lines if line["measure"] == "peak")
    again = subprocess.run([*command(raw), "--table"], capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout and "gives the same to the bit" in again.stdout


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raw: Path, *more: str) -> str:
    """Return what a command line that is refused says."""
    monkeypatch.setattr(sys, "argv", ["table.py", str(raw), *more])
    with pytest.raises(SystemExit) as ended:
        table.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_wrong_values_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "lines_of", Children())
    monkeypatch.setattr(table.torch.cuda, "is_available", lambda: False)
    raw, demo = tmp_path / "raw.jsonl", ["--rows", "demo"]
    for steps in ("0", "-1", "x"):
        assert f"'{steps}'; give a number from 1" in refused(capsys, monkeypatch, raw, *demo, f"--steps={steps}")
    assert "torch finds no CUDA here" in refused(capsys, monkeypatch, raw, *demo, "--device", "cuda")
    assert "No such file or directory" in refused(capsys, monkeypatch, raw, "--table")
    assert "No such file" in refused(capsys, monkeypatch, tmp_path / "no" / "raw.jsonl", *demo)
    assert "Is a directory" in refused(capsys, monkeypatch, tmp_path, *demo)
    assert not raw.exists()
    for line, why in {
        '{"a": 1}': "line 1: not a cell of the table, as it has no measure",
        "x": "line 1: not a re",
    }.items():
        raw.write_text(f"{line}\n")
        for more in (["--table"], demo):
            assert why in refused(capsys, monkeypatch, raw, *more)
        assert raw.read_text() == f"{line}\n"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"ms": None, "floor": None}, "it has no ms, floor"),
        ({"ms": [], "default_ms": [0.0]}, "ms and default_ms must be times above 0"),
        ({"ms": 3.0}, "ms must be times above 0"),
        ({"when": None}, "it has no when"),
    ],
)
def test_a_step_without_its_times_is_no_cell(
    damage: dict[str, Any],
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = tmp_path / "raw.jsonl"
    about = table.Table(raw, 1, "cpu", None, False).about("demo", "default", "step")
    found = {**about, "when": "2026-11-30", **dict.fromkeys(MEASURED, 0), "ms": [3.0], "default_ms": [3.0], **damage}
    append_line(raw, {name: value for name, value in found.items() if value is not None})
    assert f"line 1: not a cell of the table, as {why}" in refused(capsys, monkeypatch, raw, "--table")


def test_a_wrong_comfyui_is_told_and_kept_in_no_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, wanted = tmp_path / "raw.jsonl", ["--rows", "comfyui-demo", "--device", "cpu"]
    for name in table.NEEDED:
        monkeypatch.delenv(name, raising=False)
    told = refused(capsys, monkeypatch, raw, *wanted)
    assert "left out, as COMFYUI_PATH and COMFYUI_PYTHON are not set: comfyui-demo" in told
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setenv("COMFYUI_PYTHON", "/nowhere/python")
    assert "'/nowhere/python' cannot be started: No such file" in refused(capsys, monkeypatch, raw, *wanted)
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    told = refused(capsys, monkeypatch, raw, *wanted)
    assert f"no ComfyUI in COMFYUI_PATH {str(tmp_path)!r}" in told and "No module named 'comfy'" in told
    assert not raw.exists()


def test_rows_columns_and_settings_hold_for_the_table_of_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw.jsonl"
    for name in ("demo", "sd15-512"):
        for column in ("split", "pytorch"):
            about = table.Table(raw, 1, "cpu", None, False).about(name, column, "step")
            append_line(raw, {**about, "failed": "no", "when": "2026-11-30"})
    monkeypatch.setattr(sys, "argv", ["table.py", str(raw), "--table", "--rows", "demo", "--columns", "split"])
    assert table.main() == 0
    told = capsys.readouterr().out
    assert "the demo model" in told and "split everywhere" in told
    assert "SD1.5" not in told and "pytorch" not in told
    for name, value in {"--steps": "2", "--dtype": "float16", "--device": "cuda"}.items():
        monkeypatch.setattr(sys, "argv", ["table.py", str(raw), "--table", name, value])
        assert table.main() == 2
        assert capsys.readouterr() == ("", f"{raw} has no cell of what was asked for\n")


def test_what_is_measured_is_in_the_dtype_that_is_said(tmp_path: Path) -> None:
    """bfloat16 keeps 8 bits: two exact functions are further apart than any float32 of the same model."""
    raw = tmp_path / "raw.jsonl"
    missing = "sage" if importlib.util.find_spec("sageattention") is None else "flash"
    wanted = ["--rows", "demo", "--columns", "default", missing, "--dtype", "bfloat16"]
    subprocess.run(command(raw, *wanted), capture_output=True, check=True)
    default, other = (line for line in read_lines(raw) if line["measure"] == "step")
    assert default["dtype"] == "bfloat16" and default["floor"] > 1e-3
    assert other["failed"].startswith(f"no call ran on it: {missing}:") and "ms" not in other


@pytest.mark.comfyui
def test_the_smallest_row_of_comfyui(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    wanted = ["--rows", "comfyui-demo", "--columns", "neutral", "tuned"]
    env = {"COMFYUI_PYTHON": sys.executable, **os.environ}
    subprocess.run(command(raw, *wanted), env=env, check=True, capture_output=True)
    neutral, tuned, *peaks = read_lines(raw)
    assert neutral["floor"] < 1e-4
    subprocess.run(command(raw, *wanted[:4], "--dtype", "bfloat16"), env=env, check=True, capture_output=True)
    assert read_lines(raw)[-2]["dtype"] == "bfloat16" and read_lines(raw)[-2]["floor"] > 1e-3
    assert neutral["difference"] == 0.0 and "failed" not in tuned and tuned["rules"]
    assert sum(tuned["functions"].values()) == sum(neutral["functions"].values()) == 14 and len(peaks) == 2


def test_lines_of_another_machine_are_left_as_they_are(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    known = table.Table(raw, 1, "cpu", None, False).about("demo", "default", "step")
    append_line(raw, {**known, "on": "another machine"})
    assert table.Table(raw, 1, "cpu", None, False).missing("demo", ["default"], "step") == ["default"]
