"""The table's command: what it measures, keeps and goes on with."""

from __future__ import annotations

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


@pytest.mark.comfyui
def test_the_smallest_row_of_comfyui(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    wanted = ["--rows", "comfyui-demo", "--columns", "neutral", "tuned"]
    env = {"COMFYUI_PYTHON": sys.executable, **os.environ}
    subprocess.run(command(raw, *wanted), env=env, check=True, capture_output=True)
    neutral, tuned, *peaks = read_lines(raw)
    assert neutral["difference"] == 0.0 and "failed" not in tuned and tuned["rules"]
    assert sum(tuned["functions"].values()) == sum(neutral["functions"].values()) == 14 and len(peaks) == 2


def test_lines_of_another_machine_are_left_as_they_are(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    known = table.Table(raw, 1, "cpu", None, False).about("demo", "default", "step")
    append_line(raw, {**known, "on": "another machine"})
    assert table.Table(raw, 1, "cpu", None, False).missing("demo", ["default"], "step") == ["default"]
