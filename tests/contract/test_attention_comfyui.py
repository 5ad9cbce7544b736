"""Our attention functions in ComfyUI's place, and ComfyUI's in ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH names no ComfyUI checkout"),
]
PACK = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    result = tmp_path_factory.mktemp("attention") / "differences.json"
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), str(Path(__file__).with_name("attention_child.py"))]
    environment = {**os.environ, "PYTHONPATH": os.environ["COMFYUI_PATH"]}
    done = subprocess.run([*command, str(PACK), str(result)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(result.read_text())


def test_both_sides_compute_the_same(differences):
    assert len(differences) > 150
    assert {call: difference for call, difference in differences.items() if not difference < 2e-5} == {}


def test_an_override_is_the_function_itself(differences):
    assert {call: d for call, d in differences.items() if " in ComfyUI" in call or " in ours" in call if d} == {}
