"""What the probes find in a real ComfyUI is what it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui


def test_the_probes_find_what_there_is(tmp_path: Path) -> None:
    found = result_of("capabilities_child.py", tmp_path, 120)
    able = found["able"]
    assert able["host"] == "ComfyUI" and able["override"] and able["containers"] and found["refusal"] is None
    assert (able["preferences"], able["compiler"]) == (found["preferences"], found["compiler"])
    assert {"pytorch", "sub_quad", "split"} <= set(able["functions"])
    assert set(found["functions"]) == {*able["functions"], "of_a_pack"} and found["ran"] == 7.0
