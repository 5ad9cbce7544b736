"""What people choose between pictures: pairs, answers, scores, and the page's server."""

from __future__ import annotations

import csv
import dataclasses
import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.commands import choose
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.sweep.cells import Cell
from attention_patchbay.headless.sweep.choices import (
    Answer,
    Pairs,
    add_answer,
    counted,
    read_answers,
    scored,
    take_back,
)
from attention_patchbay.headless.sweep.choosing import Asking, serving
from attention_patchbay.headless.sweep.runner import Outcome
from attention_patchbay.headless.sweep.store import opened, opened_again
from attention_patchbay.headless.sweep.study import Study
from PIL import Image

STUDY = Study(("3.seed",), "", "sub_quad")


def made(folder: Path, settings: int = 3, repeats: int = 2) -> list[Cell]:
    """Make a sweep of plain pictures: brightness tells setting and seed."""
    found = []
    for repeat in range(repeats):
        first = Cell({"3.cfg": 0, "3.seed": repeat}, {f"0 {repeat}": {}}, True, repeat=repeat)
        first = dataclasses.replace(first, reference=first.id)
        found.append(first)
        found.append(Cell(first.choice, {f"floor {repeat}": {}}, False, first.id, repeat, True))
        for number in range(1, settings):
            choice = {"3.cfg": number, "3.seed": repeat}
            found.append(Cell(choice, {f"{number} {repeat}": {}}, False, first.id, repeat))
    with opened(folder, found, STUDY) as store:
        for cell in found:
            store.place(cell).mkdir()
            shade = cell.choice["3.cfg"] * 60 + cell.choice["3.seed"] * 10
            Image.new("RGB", (16, 16), (shade,) * 3).save(store.place(cell) / "a.png")
            store.keep(cell, Outcome(["a.png"], step_seconds=1.0), "here")
        store.tables()
    return found


def pairs_of(cells: list[Cell], same: str = "") -> Pairs:
    settings = [[cell.id for cell in cells if cell.choice["3.cfg"] == n and not cell.floor] for n in range(3)]
    rows = [{"cell": cell.id, "images": ["a.png"], **cell.role} for cell in cells]
    return Pairs(settings, rows, dict.fromkeys([cell.id for cell in cells], same) if same else {}, seed=0)


def test_pairs_are_of_one_seed_in_a_random_order_the_least_asked_first(tmp_path: Path) -> None:
    cells = {cell.id: cell for cell in made(tmp_path, repeats=4)}
    pairs, answers = pairs_of(list(cells.values())), list[Answer]()
    sides = Counter[int]()
    while (pair := pairs.next(answers)) is not None:
        left, right = cells[pair.left], cells[pair.right]
        assert left.repeat == right.repeat and left.choice["3.cfg"] != right.choice["3.cfg"]
        assert not left.floor and not right.floor
        answers.append(Answer(pair.left, pair.right, "left"))
        sides[left.choice["3.cfg"] < right.choice["3.cfg"]] += 1
        if len(answers) == 3:  # each two settings once before any twice
            assert (
                len({frozenset((cells[a.left].choice["3.cfg"], cells[a.right].choice["3.cfg"])) for a in answers}) == 3
            )
    assert len(answers) == 4 * 3 and min(sides.values()) >= 2
    assert pairs_of(list(cells.values()), same="equal").all == []


def test_answers_are_kept_counted_and_taken_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_answers(tmp_path) == []
    given = [Answer("a", "b", "left"), Answer("b", "c", "tie"), Answer("c", "a", "right")]
    for answer in given:
        add_answer(tmp_path, answer)
    assert read_answers(tmp_path) == given
    assert counted(given) == {"a": (2.0, 2), "b": (0.5, 2), "c": (0.5, 2)}
    first, second, third = scored([["a"], ["b", "c"], ["none"]], given)
    assert first is not None and second is not None and third is None
    assert first.mean > 0 > second.mean and (first.n, second.n) == (2, 4)
    take_back(tmp_path)
    assert read_answers(tmp_path) == given[:2]
    with (tmp_path / "choices.jsonl").open("a") as file:
        file.write('{"left": "a"\n[]\n{"left": "a", "right": "b", "chosen": "up"}\n{"left": "a", "ri')
    assert read_answers(tmp_path) == given[:2] and caplog.text.count("is damaged, and left out") == 4


def ask(address: str, path: str, data: Any = None) -> Any:
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, body), timeout=10) as answer:
        found = answer.read()
    return json.loads(found) if answer.headers["Content-Type"] == "application/json" else found


def asking_of(folder: Path, cells: list[Cell]) -> Any:
    with opened_again(folder) as store:
        return Asking(store, pairs_of(cells), {row["cell"]: row["images"] for row in store.rows()})


def test_the_page_learns_no_more_than_numbers(tmp_path: Path) -> None:
    cells = made(tmp_path)
    with serving(asking_of(tmp_path, cells)) as address:
        assert b"Which picture is better" in ask(address, "")
        first = ask(address, "next")
        assert first == {"pair": 0, "waiting": 6, "given": 0}
        assert ask(address, "picture/0/left")[:4] == b"\x89PNG" != ask(address, "picture/0/right")
        ask(address, "answer", {"pair": 0, "chosen": "left"})
        assert ask(address, "next") == {"pair": 1, "waiting": 5, "given": 1} and len(read_answers(tmp_path)) == 1
        ask(address, "undo", {})
        assert ask(address, "next") == {"pair": 2, "waiting": 6, "given": 0}
        for path, data in (
            ("answer", {"pair": 0, "chosen": "left"}),
            ("answer", {"pair": 2, "chosen": "up"}),
            ("answer", []),
        ):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask(address, path, data)
        for path in ("picture/9/left", "picture/0/up", "picture/-1/left", "none"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                ask(address, path)
        for wrong in (address.rsplit("/", 2)[0] + "/", address.rsplit("/", 2)[0] + "/wrong/next"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                ask(wrong, "")


def test_choices_come_into_the_table_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path)
    address: list[str] = []

    def sit(url: str) -> None:  # a person who likes it bright
        address.append(url)
        threading.Thread(target=person, args=(url,)).start()

    def person(url: str) -> None:
        while (found := ask(url, "next"))["pair"] is not None:
            sides = [ask(url, f"picture/{found['pair']}/{side}") for side in ("left", "right")]
            shades = []
            for data in sides:
                (tmp_path / "seen.png").write_bytes(data)
                shades.append(Image.open(tmp_path / "seen.png").getpixel((0, 0)))
            ask(url, "answer", {"pair": found["pair"], "chosen": "left" if shades[0] > shades[1] else "right"})
        ask(url, "end", {})

    monkeypatch.setattr(choose.webbrowser, "open", sit)
    assert main(["choose", str(tmp_path)]) == 0 and len(address) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:3]] == ["3.cfg=2", "3.cfg=1", "3.cfg=0"] and "of 4 choices" in said[0]
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = {(row["3.cfg"], row["3.seed"]): (row["chosen"], row["shown"]) for row in rows if row["floor"] == "False"}
    assert chosen["2", "1"] == ("2.0", "2") and chosen["1", "0"] == ("1.0", "2") and chosen["0", "0"] == ("0.0", "2")
    assert all(float(row["mean"]) >= 0 for row in rows)
    with (tmp_path / "settings.csv").open() as file:
        marks = {row["3.cfg"]: row["score_mean"] for row in csv.DictReader(file) if row["floor"] == "False"}
    assert float(marks["0"]) < float(marks["1"]) < float(marks["2"])
    assert '"score": {"n": 4' in (tmp_path / "report.html").read_text()
    assert main(["choose", str(tmp_path)]) == 0 and len(address) == 1  # every pair is answered


def test_what_is_no_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["choose", str(tmp_path)]) == 2 and "is the folder of no sweep" in capsys.readouterr().err
    made(tmp_path, settings=1)
    assert main(["choose", str(tmp_path)]) == 2 and "no two settings whose pictures" in capsys.readouterr().err
    plan = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": plan["cells"]}))
    with pytest.raises(Failure, match="does not say enough; start the sweep again"), opened_again(tmp_path):
        pass


@pytest.mark.parametrize("port", ["99999", "65536", "-1", "x", ""])
def test_a_port_that_there_is_none_of_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["choose", str(tmp_path), f"--port={port}"])
    assert ended.value.code == 2 and "--port: write a number from 0 (a free one) to 65535" in capsys.readouterr().err
