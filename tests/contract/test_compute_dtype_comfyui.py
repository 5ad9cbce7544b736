"""ComfyUI's own node for computing in bfloat16 and our nodes on one model, in either order."""

from __future__ import annotations

from typing import Any

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui
BFLOAT16 = 2.0**-8  # of the rounding of a number


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = result_of("compute_dtype_child.py", tmp_path_factory.mktemp("compute_dtype"))
    return found


@pytest.mark.parametrize("case", ["neutral", "auto", "tiles", "patch", "merging"])
def test_a_patched_model_computes_in_bfloat16_whatever_node_comes_first(results: dict[str, Any], case: str) -> None:
    found = results[case]
    assert found["dtypes"] == ["torch.bfloat16"]
    assert found["other order"] == 0.0
    assert 0.0 < found["float32"] < 20 * BFLOAT16


def test_nothing_of_ours_changes_what_bfloat16_gives_but_what_is_asked_for(results: dict[str, Any]) -> None:
    assert results["neutral"]["unpatched"] == 0.0
    assert 0.0 < results["auto"]["unpatched"] < 20 * BFLOAT16
    assert results["patch"]["unpatched"] > 0.1 and results["merging"]["unpatched"] > 0.0


def test_the_tiles_take_calls_in_bfloat16(results: dict[str, Any]) -> None:
    assert "cpu_tiled" in results["auto"]["functions"]
    assert "cpu_tiled" in results["tiles"]["functions"]


def test_the_model_computes_in_float32_afterwards(results: dict[str, Any]) -> None:
    assert results["afterwards"]["unchanged"]
