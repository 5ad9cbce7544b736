"""Sample a patched model with ComfyUI's scheduler for several devices: a thread and a network for each side."""

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
STEPS = 4
WINDOW = 3  # steps in the window of patch 2
GUIDED = 2  # steps in that of the guidance, with one more call in each


def test_two_devices_give_the_result_of_one_and_exact_counts(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), str(Path(__file__).with_name("threads_child.py"))]
    environment = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(
        [*command, str(PACK), str(result)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(result.read_text())
    assert record["threads"][0] == 1 and record["threads"][1] > 1
    assert record["difference"] < 1e-5 and record["again"]
    assert "never ran" not in record["text"]
    alone, both = record["uses"]
    assert (alone["1 middle"], both["1 middle"]) == (STEPS + GUIDED, 2 * STEPS + GUIDED)
    assert (alone["3 input:1"], both["3 input:1"]) == (STEPS + GUIDED, 2 * STEPS + GUIDED)
    assert (alone["2 input:1"], both["2 input:1"]) == (WINDOW + GUIDED, 2 * WINDOW + GUIDED)
    assert alone["4 output:0"] == both["4 output:0"] == GUIDED
