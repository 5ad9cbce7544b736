"""Sample a patched model with ComfyUI's scheduler for several devices: a thread and a network for each side."""

from __future__ import annotations

from pathlib import Path

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui
STEPS = 4
WINDOW = 3  # steps in the window of patch 2
GUIDED = 2  # steps in that of the guidance, with one more call in each


def test_two_devices_give_the_result_of_one_and_exact_counts(tmp_path: Path) -> None:
    record = result_of("threads_child.py", tmp_path, 300)
    assert record["threads"][0] == 1 and record["threads"][1] > 1
    assert record["difference"] < 1e-5 and record["again"]
    assert "never ran" not in record["text"]
    alone, both = record["uses"]
    assert (alone["1 middle"], both["1 middle"]) == (STEPS + GUIDED, 2 * STEPS + GUIDED)
    assert (alone["3 input:1"], both["3 input:1"]) == (STEPS + GUIDED, 2 * STEPS + GUIDED)
    assert (alone["2 input:1"], both["2 input:1"]) == (WINDOW + GUIDED, 2 * WINDOW + GUIDED)
    assert alone["4 output:0"] == both["4 output:0"] == GUIDED
