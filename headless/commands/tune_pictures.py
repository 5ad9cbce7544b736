"""Choices of attention functions judged by the pictures that a workflow makes with them, beside the noise floor."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...ldm_patched.patches.reading.report import layout
from ...ldm_patched.patches.routing.rules import parse_rules
from ..api.folders import Folders
from ..engine.errors import FAILED, Failure
from ..engine.workflow import Prompt, sampler_of
from ..pages.workflow_file import embedded_infos
from ..sweep.cells import NUMBERS, Cell, cells
from ..sweep.embedded import Embedded
from ..sweep.expect import Bound
from ..sweep.messages import Progress
from ..sweep.repeats import repeats
from ..sweep.report import Report
from ..sweep.rounds import in_running_order
from ..sweep.runner import Outcome
from ..sweep.store import Store, opened
from ..sweep.study import Study
from ..sweep.workers import run_all
from .check import BACKEND_RULES
from .lora_influence import OTHER
from .unet_dtype import unet_dtype

PLAIN, FLOOR = "no rules", "noise floor"


class Choice(NamedTuple):
    """Rules, and the error against float64 within which they were made."""

    within: str
    rules: str


class Judged(NamedTuple):
    """The rules that are taken, empty where no choice is good, and a row for each choice between two without any."""

    rules: str
    rows: list[dict[str, Any]]

    def text(self) -> str:
        """Return it for reading."""
        measures = [name for name in ("mean", "ssim", "lpips") if any(row[name] is not None for row in self.rows)]
        head = [
            "within",
            "rules",
            "s a step",
            *("mean difference" if name == "mean" else name for name in measures),
            "",
        ]
        return "\n".join(layout([head, *(_line(row, measures) for row in self.rows)]))


def judged(
    args: argparse.Namespace, folders: Folders, prompt: Prompt, choices: Sequence[Choice], bounds: Sequence[Bound]
) -> Judged:
    """Make the pictures of some seeds with each choice and without, and take the first choice that keeps all bounds.

    A bound is held against the mean over the seeds, `max` against the largest.
    Raises Failure for a workflow without pictures or without seeds, and where a run of it fails.
    """
    infos = embedded_infos()
    prompt, name = _with_rules(prompt)
    again = repeats(prompt, infos, args.pictures)
    wanted = cells(prompt, [{name: choice.rules} for choice in choices], infos, {name: ""}, again, OTHER)
    with opened(args.folder, wanted, Study(again.seeds, floor=OTHER)) as store:
        rows = _run(args, folders, prompt, store)
    if not any(row["image"] for row in rows if row["baseline"]):
        raise Failure("--pictures: this workflow gives no picture to compare")
    found = [_row(choice.within, choice.rules, _of(rows, name, choice.rules)) for choice in choices]
    for row in found:
        row["good"] = all(bound.holds(row) for bound in bounds)
    taken = next((row for row in found if row["good"]), None)
    plain = _row(PLAIN, "", [row for row in rows if row["baseline"]])
    floor = _row(FLOOR, "", [row for row in rows if row["floor"]])
    return Judged("" if taken is None else taken["rules"], [plain, *found, floor])


def _with_rules(prompt: Prompt) -> tuple[Prompt, str]:
    """Return the workflow with rules in front of its sampler, and the name of their input."""
    prompt = copy.deepcopy(prompt)
    sampler = sampler_of(prompt)
    id = f"{sampler} tuned"
    prompt[id] = {"class_type": BACKEND_RULES, "inputs": {"model": prompt[sampler]["inputs"]["model"], "rules": ""}}
    prompt[sampler]["inputs"]["model"] = [id, 0]
    return prompt, f"{id}.rules"


def _run(args: argparse.Namespace, folders: Folders, prompt: Prompt, store: Store) -> list[dict[str, Any]]:
    """Run what waits; Ctrl-C keeps what is finished."""
    waiting = in_running_order(prompt, store.waiting(again=True))
    total = len(store.cells)
    progress, report = Progress(total - len(waiting), total, args.quiet or args.json), Report(store)
    runner = Embedded(folders, unet_dtype(args), args.cache)

    def told(cell: Cell, outcome: Outcome) -> None:
        if outcome.error:
            raise Failure(f"--pictures: {outcome.error}", FAILED)
        progress.cell(cell, outcome)
        report.update()

    try:
        run_all(waiting, [runner], store, told)
    finally:
        progress.close()
        rows = report.write()
    return rows


def _of(rows: Sequence[Mapping[str, Any]], name: str, rules: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row[name] == rules and not (row["baseline"] or row["floor"])]


def _row(within: str, rules: str, some: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over the seeds of a choice."""
    steps = sorted(row["step_seconds"] for row in some if row["step_seconds"] is not None and not row["warm_up"])
    far = {name: _mean([row[name] for row in some if row[name] is not None]) for name in NUMBERS}
    far["max"] = max((row["max"] for row in some if row["max"] is not None), default=None)
    middle = steps[len(steps) // 2] if steps else None
    about = {"within": within, "rules": rules, "pictures": len(some), "step_seconds": middle}
    return {**about, **far, "good": None}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _line(row: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    numbers = ["" if row[name] is None else f"{row[name]:.4f}" for name in measures]
    step = "" if row["step_seconds"] is None else f"{row['step_seconds']:.3f}"
    count = str(len(parse_rules(row["rules"]))) if row["rules"] else ""
    said = {None: "", True: "good", False: "too far"}[row["good"]]
    return [row["within"], count, step, *numbers, said]
