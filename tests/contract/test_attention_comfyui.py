"""Our attention functions in ComfyUI's place, and ComfyUI's in ours."""

from __future__ import annotations

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    return result_of("attention_child.py", tmp_path_factory.mktemp("attention"))


def test_both_sides_compute_the_same(differences):
    assert len(differences) > 150
    assert {call: difference for call, difference in differences.items() if not difference < 2e-5} == {}


def test_an_override_is_the_function_itself(differences):
    assert {call: d for call, d in differences.items() if " in ComfyUI" in call or " in ours" in call if d} == {}
