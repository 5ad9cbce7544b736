"""The order in which cells run, and what it makes of a machine whose load comes and goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.pages.workflow_file import embedded_infos
from attention_patchbay.headless.sweep.axes import Axis
from attention_patchbay.headless.sweep.cells import Cell, cells, choices
from attention_patchbay.headless.sweep.repeats import repeats
from attention_patchbay.headless.sweep.rounds import in_running_order
from attention_patchbay.headless.sweep.runner import Outcome
from attention_patchbay.headless.sweep.store import opened
from attention_patchbay.headless.sweep.study import Study
from attention_patchbay.headless.sweep.summary import summary
from attention_patchbay.headless.sweep.workers import run_all

from .test_repeats import PROMPT
from .test_sweep import Fake

STRENGTH = "PatchbayAttentionPatch.strength"
STEP, LOADED = 0.06, 0.14  # seconds of a step, alone and beside other work


def strengths(count: int, values: tuple[float, ...] = (0.25, 0.75)) -> list[Cell]:
    infos = embedded_infos()
    all = choices([Axis("PatchbayAttentionPatch", "strength", values)])
    return cells(PROMPT, all, infos, {STRENGTH: 0.0}, repeats(PROMPT, infos, count), "sub_quad")


def role(cell: Cell) -> Any:
    return "baseline" if cell.baseline else "floor" if cell.floor else cell.choice[STRENGTH]


def test_every_setting_runs_once_before_any_runs_again() -> None:
    all = strengths(2)
    ordered = in_running_order(PROMPT, all)
    forth = ["baseline", "floor", 0.25, 0.75]
    assert [role(cell) for cell in ordered] == [*forth, *reversed(forth)]
    assert [cell.repeat for cell in ordered] == [0] * 4 + [1] * 4
    assert sorted(cell.id for cell in ordered) == sorted(cell.id for cell in all)


def test_a_round_makes_each_model_once() -> None:
    infos = embedded_infos()
    axes = [Axis("PatchbayAttentionPatch", "strength", (0.25, 0.75)), Axis("KSampler", "cfg", (1.0, 2.0))]
    found = cells(PROMPT, choices(axes), infos, {"KSampler.cfg": 1.0}, repeats(PROMPT, infos, 2))
    ordered = [cell.choice[STRENGTH] for cell in in_running_order(PROMPT, found)]
    assert ordered == [0.25, 0.25, 0.75, 0.75, 0.75, 0.75, 0.25, 0.25]


@pytest.mark.parametrize("load", ["comes", "goes", "rises"])
def test_load_that_comes_and_goes_is_no_settings_time(load: str) -> None:
    count = 8
    planned = strengths(count, (0.25, 0.5, 0.75, 1.0))
    rows = []
    for place, cell in enumerate(in_running_order(PROMPT, planned)):
        part = place / len(planned)
        busy = {"comes": part > 0.5, "goes": part < 0.3, "rises": part}[load]
        own = {"cell": cell.id, **cell.role, **cell.choice, "seconds": 1.0, "error": "", "mean": None, "ssim": None}
        rows.append({**own, "step_seconds": STEP + (LOADED - STEP) * busy})
    found = summary(rows, Study(("8.seed",), "", "sub_quad"))
    others = [one["slower"] for one in found if not (one["baseline"] or one["floor"])]
    assert len(others) == 4 and all(one["n"] == count and one["p"] > 0.05 for one in others)


class Noting(Fake):
    """A runner that notes the rounds of its cells."""

    def __init__(self, name: str, repeats: dict[str, int], lost_at: int = -1) -> None:
        super().__init__(name, lost_at)
        self.repeats, self.rounds = repeats, list[int]()

    def run(self, prompt: Any, folder: Path) -> Outcome:
        outcome = super().run(prompt, folder)
        self.rounds.append(self.repeats[json.dumps(prompt)])
        return outcome


@pytest.mark.parametrize("lost_at", [-1, 6])
def test_a_worker_keeps_to_its_round(lost_at: int, tmp_path: Path) -> None:
    all = in_running_order(PROMPT, strengths(6))
    by_prompt = {json.dumps(cell.prompt): cell.repeat for cell in all}
    workers = [Noting("one", by_prompt), Noting("two", by_prompt, lost_at)]
    with opened(tmp_path, all) as store:
        run_all(all, workers, store, lambda cell, outcome: None)
        assert store.waiting() == []
    for worker in workers:
        whole = [number for number in dict.fromkeys(worker.rounds) if worker.rounds.count(number) == 4]
        assert len(whole) >= (2 if lost_at < 0 else 1), worker.rounds
        assert worker.rounds[:4] == [worker.rounds[0]] * 4
