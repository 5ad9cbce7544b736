"""Layers of a checkpoint that prefer a function keep it under the nodes, in a real ComfyUI from 0.40 on."""

from __future__ import annotations

from pathlib import Path

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui
CALLS = 20  # in one step: ten blocks with two attentions each
GUIDED = 2 * CALLS  # and one prediction more


def test_a_node_takes_no_more_than_what_it_is_for(tmp_path: Path) -> None:
    found = result_of("preferred_child.py", tmp_path, 300)
    if found is None:
        pytest.skip("this ComfyUI keeps no attention function in a layer")
    assert found["no node"][:2] == [CALLS, 0]
    for name in ("neutral patch", "guard off"):
        assert found[name][:3] == [CALLS, 0, 0.0], name
    contained, plain, _, text = found["patch"]
    assert (contained, plain) == (CALLS, 0) and "preferred by the model" in text
    contained, plain, _, text = found["rule"]
    assert (contained, plain) == (CALLS - 2, 0) and "basic" in text
    contained, plain, difference, _ = found["guard"]  # it has to keep what it may have to compute again
    assert (contained, plain, difference) == (0, CALLS, 0.0)
    contained, plain, _, _ = found["guidance"]
    assert contained + plain == GUIDED - 1  # but the attention that it takes away
