"""Check that patches behind ComfyUI's compile node never meet a graph of other patches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no ComfyUI checkout"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compile")
    (folder / "attention_patchbay").symlink_to(ROOT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((os.environ["COMFYUI_PATH"], str(folder)))}
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), str(Path(__file__).with_name("compile_child.py"))]
    done = subprocess.run(
        [*command, str(folder / "result.json")],
        env=environment,
        capture_output=True,
        text=True,
        cwd=os.environ["COMFYUI_PATH"],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("case", ["output", "input", "window and curve", "replace", "rule", "guidance"])
def test_a_patch_added_changed_or_removed_takes_effect(results: dict[str, Any], case: str) -> None:
    for found in results[case]:
        assert case == "rule" or found["effect"] > 1e-4  # a stale graph would be seen
        for order in ("patched first", "compiled first"):
            assert found[order] < 1e-5
            assert found[f"{order}, functions"]
        assert found["removed"] < 1e-5
