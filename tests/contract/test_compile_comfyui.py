"""Check that patches behind ComfyUI's compile node never meet a graph of other patches."""

from __future__ import annotations

from typing import Any

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = result_of("compile_child.py", tmp_path_factory.mktemp("compile"))
    return found


@pytest.mark.parametrize("case", ["output", "input", "window and curve", "replace", "rule", "guidance"])
def test_a_patch_added_changed_or_removed_takes_effect(results: dict[str, Any], case: str) -> None:
    for found in results[case]:
        assert case == "rule" or found["effect"] > 1e-4  # a stale graph would be seen
        for order in ("patched first", "compiled first"):
            assert found[order] < 1e-5
            assert found[f"{order}, functions"]
        assert found["removed"] < 1e-5
