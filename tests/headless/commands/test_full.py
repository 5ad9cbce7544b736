"""A disk that fills up and a folder that takes nothing: one sentence, the exit code, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.ldm_patched.files import whole

from .signalled import PROMPT
from .test_endings import PAGE

ROOM = 512  # bytes of a file: none of those below fits into it
CAPTURE: dict[str, Any] = {
    "model": ["0", 0],
    "clip": ["0", 1],
    "prompt": "a red circle",
    "words": "red",
    "blocks": "all",
}
CAPTURE |= {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
MAPS = {
    "c": {"class_type": "PatchbayCaptureAttention", "inputs": CAPTURE},
    "s": {"class_type": "PatchbaySaveAttentionMaps", "inputs": {"model": ["c", 0], "latent": ["3", 0]}},
}
KINDS = ("SaveImage", "PreviewImage", "PatchbaySaveAttentionMaps")


def workflow(kind: str) -> dict[str, Any]:
    """Return a workflow whose only output is of a kind."""
    prompt = {id: json.loads(json.dumps(node)) for id, node in PROMPT.items() if id not in "ab"}
    prompt["2"]["inputs"] |= {"width": 128, "height": 128, "batch_size": 1}
    if kind == "PatchbaySaveAttentionMaps":
        del prompt["4"]
        prompt |= json.loads(json.dumps(MAPS))
        prompt["s"]["inputs"]["filename_prefix"] = "maps"
        prompt["3"]["inputs"]["model"] = ["c", 0]
    else:
        prompt["a"] = {"class_type": kind, "inputs": {"images": ["4", 0], "filename_prefix": "a"}}
    return prompt


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond `ROOM`."""
    before, heard = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def said(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int) -> str:
    """Run a command that has to fail; return what it says, after a look at what it leaves."""
    assert main(arguments) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("patchbay: ")
    left = [path for path in Path().rglob("*") if path.is_file() and path.name != "workflow.json"]
    assert [path for path in left if path.suffix in (".png", ".safetensors", ".html", ".tmp", ".csv")] == []
    return error


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_full_disk(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("workflow.json").write_text(json.dumps(workflow(kind)))
    with full_disk():
        error = said(["run", "workflow.json", "--output", "out", "--quiet"], capsys, 1)
    assert "File too large" in error and kind.removeprefix("Patchbay")[:4] in error


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 2), (errno.EACCES, 2), (errno.ENOSPC, 1)])
@pytest.mark.parametrize("kind", ["SaveImage", "convert", "sweep"])
def test_a_folder_that_takes_nothing(
    kind: str, number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(path: Path) -> Any:
        raise OSError(number, os.strerror(number), str(path.parent))

    Path("workflow.json").write_text(json.dumps(workflow("SaveImage")))
    monkeypatch.setattr(whole, "_created", closed)
    axis = ["--axis", "3.seed=1,2", "--folder", "out", "--quiet"]
    commands = {
        "SaveImage": ["run", "workflow.json", "--output", "out", "--quiet"],
        "convert": ["convert", PAGE, "-o", "x.json"],
        "sweep": ["sweep", "workflow.json", *axis],
    }
    assert os.strerror(number) in said(commands[kind], capsys, code)


def test_a_sweep_on_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    Path("workflow.json").write_text(json.dumps(workflow("SaveImage")))
    with full_disk():
        code = main(["sweep", "workflow.json", "--axis", "3.seed=1", "--folder", "out", "--quiet"])
    assert code == 1 and capsys.readouterr().err.splitlines()[-1].startswith("patchbay: ")
    assert not [path for path in Path("out").rglob("*") if path.suffix in (".png", ".html", ".tmp")]


def test_converting_on_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.json").write_text("before")
    with full_disk():
        assert "File too large" in said(["convert", PAGE, "-o", "x.json"], capsys, 1)
    assert Path("x.json").read_text() == "before"
