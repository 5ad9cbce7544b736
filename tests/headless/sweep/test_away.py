"""The folder of a sweep at addresses of fsspec: memory://, and file:// as another machine would read it."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.sweep import away as module
from attention_patchbay.headless.sweep.away import Away, at_hand, is_address
from attention_patchbay.headless.sweep.cells import Cell
from attention_patchbay.headless.sweep.runner import Outcome
from attention_patchbay.headless.sweep.store import opened
from PIL import Image

from .killed import killed_and_again
from .test_sweep import DEMO, OWN

QUICK = ["--axis", "KSampler.seed=1,2", "--axis", "KSampler.steps=1", "--baseline", "KSampler.steps=1", "--quiet"]


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


def test_a_path_is_no_address(tmp_path: Path) -> None:
    assert is_address("s3://bucket/a") and not is_address(str(tmp_path)) and not is_address("C:\\sweeps")
    with at_hand(str(tmp_path)) as (folder, away):
        assert folder == tmp_path and away is None


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_sweep_keeps_its_results_there_and_goes_on(
    protocol: str, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{protocol}://{tmp_path}/results/s"
    assert main(["sweep", str(DEMO), "--folder", address, *QUICK]) == 0
    assert capsys.readouterr().out.endswith(f"{address}/report.html\n")
    fs, root = fsspec.core.url_to_fs(address)
    names = {path[len(root) :].lstrip("/") for path in fs.find(root)}
    kinds = sorted(name.rpartition(".")[2] for name in names)
    assert {"table.csv", "table.parquet", "report.html", "sweep.json"} <= names
    assert (kinds.count("png"), kinds.count("difference"), kinds.count("part")) == (2, 2, 0)
    before = {name: fs.cat_file(f"{root}/{name}") for name in names}
    assert main(["sweep", str(DEMO), "--folder", address, *QUICK]) == 0
    after = {name: fs.cat_file(f"{root}/{name}") for name in names}
    assert before == after
    other = [*QUICK[:1], "KSampler.seed=1,2,3", *QUICK[2:]]
    assert main(["sweep", str(DEMO), "--folder", address, *other]) == 2
    assert f"{address} holds a sweep of another workflow or other axes" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["memory", "file"])
@pytest.mark.parametrize("name", [*(name for name in OWN if name != ".lock"), "settings.csv", "table.csv/mine"])
def test_an_address_with_files_of_others_is_refused(
    protocol: str, name: str, tmp_path: Path, memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"{protocol}://{tmp_path}/s"
    fs, root = fsspec.core.url_to_fs(address)
    fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
    fs.pipe_file(f"{root}/{name}", b"my own work")
    assert main(["sweep", str(DEMO), "--folder", address, *QUICK]) == 2
    said = f"{address} holds a {name.partition('/')[0]} that is of no sweep, and stays; give another --folder"
    assert said in capsys.readouterr().err
    assert [(path, fs.cat_file(path)) for path in fs.find(root)] == [(f"{root}/{name}", b"my own work")]


def test_files_beside_those_of_a_sweep_stay(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    mine = [tmp_path / "s" / name for name in ("table.csv.part", "sweep.json.part", "notes.txt", ".lock")]
    for path in mine:
        path.write_text("my own work")
    assert main(["sweep", str(DEMO), "--folder", f"file://{tmp_path}/s", *QUICK]) == 0
    assert [path.read_text() for path in mine] == ["my own work"] * len(mine)
    assert len(list((tmp_path / "s").rglob("*.part"))) == 2


class Killed(Exception):
    """The process dies here."""


def sweep(address: str, cells: list[Cell]) -> list[dict[str, Any]]:
    """Run what waits with plain pictures."""
    with at_hand(address) as (folder, away), opened(folder, cells, away=away) as store:
        for cell in store.waiting():
            store.place(cell).mkdir()
            for name in ("a.png", "b.png"):
                Image.new("RGB", (8, 8), (cell.choice["a.b"] * 20,) * 3).save(store.place(cell) / name)
            store.keep(cell, Outcome(["a.png", "b.png"]), "here")
        return store.tables()


def test_it_may_be_killed_between_any_two_files(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Cell({"a.b": 0}, {"0": {}}, True)
    first = dataclasses.replace(first, reference=first.id)
    cells = [first, *(Cell({"a.b": n}, {str(n): {}}, False, first.id) for n in (1, 2))]
    put = Away.put
    for limit in itertools.count():
        address, count = f"memory://killed/{limit}", itertools.count()

        def dying(self: Away, here: Path, name: str, count: Any = count, limit: int = limit) -> None:
            if next(count) == limit:
                raise Killed
            put(self, here, name)

        monkeypatch.setattr(Away, "put", dying)
        try:
            sweep(address, cells)
        except Killed:
            told = {path.rpartition("/")[2] for path in memory.find(f"/killed/{limit}") if path.endswith(".json")}
        else:
            break
        monkeypatch.setattr(Away, "put", put)
        with at_hand(address) as (folder, away), opened(folder, cells, away=away) as store:
            waiting = {cell.id for cell in store.waiting()}
        assert waiting == {cell.id for cell in cells if f"{cell.id}.json" not in told}
        assert [row["mean"] for row in sweep(address, cells)] == [0.0, 20.0, 40.0]
    assert limit > 3 * 3  # a plan, and for each cell two pictures and what it says


def test_a_picture_that_is_gone_there_runs_its_cell_again(memory: Any, caplog: pytest.LogCaptureFixture) -> None:
    cells = [Cell({"a.b": 1}, {"1": {}}, True)]
    sweep("memory://gone", cells)
    memory.rm_file(f"/gone/cells/{cells[0].id}/b.png")
    with at_hand("memory://gone") as (folder, away), opened(folder, cells, away=away) as store:
        assert store.waiting() == cells
    assert "the cell runs again" in caplog.text


def test_a_killed_process_goes_on_from_there(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/s"
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "sweep", str(DEMO), "--quiet"]
    command += ["--folder", address, "--axis", "KSampler.seed=1..5", "--axis", "KSampler.steps=20"]
    command += ["--baseline", "KSampler.steps=20"]
    killed_and_again(command, tmp_path / "s", 5)


def test_what_cannot_be_reached_says_so(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failure, match="--folder none://x: Protocol not known: none"):
        Away("none://x")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    tries = itertools.count(1)

    def failing(self: Any, path: str, data: bytes, **more: Any) -> None:
        next(tries)
        raise OSError("no route")

    monkeypatch.setattr(type(memory), "pipe_file", failing)
    (tmp_path / "a").write_text("a")
    with pytest.raises(Failure, match="memory://x: no route; start again to go on"):
        Away("memory://x").put(tmp_path, "a")
    assert next(tries) == 4
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(Failure, match=r"fsspec is missing; pip install \"attention-patchbay\[remote\]\""):
        Away("memory://x")


@pytest.mark.parametrize(
    ("error", "code"),
    [(PermissionError(errno.EACCES, "no"), 2), (FileNotFoundError(errno.ENOENT, "no"), 2), (OSError("no route"), 2)]
    + [(ConnectionRefusedError(errno.ECONNREFUSED, "no"), 2), (OSError(errno.ENOSPC, "full"), 1)],
)
@pytest.mark.parametrize("place", ["find", "pipe_file"])
def test_a_place_that_cannot_be_used_ends_as_a_folder_does(
    error: OSError,
    code: int,
    place: str,
    memory: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*arguments: Any, **more: Any) -> Any:
        raise error

    memory.makedirs("/s", exist_ok=True)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(type(memory), place, failing)
    assert main(["sweep", str(DEMO), "--folder", "memory://s", *QUICK]) == code
    assert "memory://s: " in capsys.readouterr().err


def test_names_there_lead_nowhere_else(tmp_path: Path, memory: Any) -> None:
    memory.pipe_file("/bad/cells/x.json", json.dumps({}).encode())
    away = Away("memory://bad")
    away.sizes["../outside.json"] = 1
    with pytest.raises(ValueError):
        away.get(tmp_path, "../outside.json")
