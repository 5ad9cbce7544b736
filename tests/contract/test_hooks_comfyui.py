"""LoRA hooks give the latents of ComfyUI: one workflow of many samplers, in a server and in the embedded host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.catalog import catalog
from safetensors.torch import load_file
from torch import Tensor

from ..hooked import write_models
from .children import result_of
from .comfyui_server import Server
from .hook_cases import CASES, workflow

pytestmark = pytest.mark.comfyui
BOUND = 1e-5
COLUMNS = ("block", "attention", "calls", "steps", "patches", "note")
REPORTED = ("word weight", "attention patch", "regional prompt")


class Answer:
    """What a host gave: latents by case, and the tables of reports."""

    def __init__(self, output: Path, shown: dict[str, Any]) -> None:
        files = sorted((output / "latents").glob("*.latent"))
        self.latents = {file.name.rpartition("_0")[0]: load_file(file)["latent_tensor"] for file in files}
        self.tables = {name: entry["table"] for name, entry in shown.items() if "table" in entry}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Answer, Answer]]:
    folder = tmp_path_factory.mktemp("hooks")
    server, models = Server(folder / "base"), folder / "base" / "models"
    write_models(models)
    run = Executor(catalog(), Session(Folders(models, folder / "base" / "input", folder / "here"))).run(workflow())
    assert not run.refused
    with server:
        record = server.run(workflow(), folder)
    assert record["status"] == "success", record["error"]
    yield Answer(folder / "here", run.ui), Answer(folder / "base" / "output", record["outputs"])


def apart(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_latents_are_those_of_comfyui(name: str, answers: tuple[Answer, Answer]) -> None:
    mine, theirs = (answer.latents[name] for answer in answers)
    assert mine.shape == theirs.shape and torch.isfinite(theirs).all()
    assert apart(mine, theirs) < BOUND


def test_every_case_has_latents_of_its_own(answers: tuple[Answer, Answer]) -> None:
    latents = list(answers[1].latents.items())
    assert [
        (one, other)
        for i, (one, a) in enumerate(latents)
        for other, b in latents[:i]
        if a.shape == b.shape and apart(a, b) < 100 * BOUND
    ] == []


@pytest.mark.parametrize("name", REPORTED)
def test_a_report_counts_what_it_counts_in_comfyui(name: str, answers: tuple[Answer, Answer]) -> None:
    mine, theirs = (
        [{column: row[column] for column in COLUMNS} for row in answer.tables[f"{name} report"]] for answer in answers
    )
    assert mine == theirs and len(mine) == 2 * 7


def test_a_model_as_a_hook_gives_the_latents_of_comfyui(tmp_path: Path) -> None:
    found = result_of("hooks_child.py", tmp_path, 300)
    assert len(found) == 8
    assert {what: distance for what, (distance, _) in found.items() if not distance < BOUND} == {}
    assert all(changed > 100 * BOUND for _, changed in found.values())
