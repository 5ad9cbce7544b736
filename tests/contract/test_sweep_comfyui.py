"""A sweep on real ComfyUI servers: cells on two of them, and one that dies on the way."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from attention_patchbay.ldm_patched.headless.cli import main
from PIL import Image

from .comfyui_server import ROOT, Server

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no ComfyUI checkout"),
]
DEMO = ROOT / "example_workflows" / "api" / "demo.json"


def results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("cells/*.json"))]


def test_two_servers_share_the_cells_and_one_may_die(tmp_path: Path) -> None:
    axes = ["--axis", "KSampler.seed=1..6", "--axis", "KSampler.steps=10", "--quiet"]
    with Server(tmp_path / "a") as one, contextlib.ExitStack() as other:
        second = other.enter_context(Server(tmp_path / "b"))
        code: list[int] = []
        arguments = ["sweep", str(DEMO), "--folder", str(tmp_path / "s"), "--server", one.url, "--server", second.url]
        thread = threading.Thread(target=lambda: code.append(main([*arguments, *axes])))
        thread.start()
        end = time.monotonic() + 120
        while not any(row["worker"] == second.url for row in results(tmp_path / "s")) and time.monotonic() < end:
            time.sleep(0.05)
        second.process.kill()
        thread.join(300)
    assert code == [0]
    found = results(tmp_path / "s")
    assert len(found) == 7 and {row["worker"] for row in found} == {one.url, second.url}
    assert all(row["seconds"] > 0 and row["backends"] and not row["error"] for row in found)
    assert main(["sweep", str(DEMO), "--folder", str(tmp_path / "here"), *axes]) == 0
    for folder in (tmp_path / "here").glob("cells/*/"):
        there = tmp_path / "s" / "cells" / folder.name
        one, two = (np.asarray(Image.open(next(place.glob("*.png"))), dtype=float) for place in (folder, there))
        assert np.abs(one - two).max() <= 1.0
