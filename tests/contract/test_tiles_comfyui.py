"""Masks of ours in the areas and tiles of a picture in ComfyUI; Tiled Diffusion where PATCHBAY_PACKS has the pack."""

from __future__ import annotations

from typing import Any

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui
FELT = 1e-3


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return result_of("tiles_child.py", tmp_path_factory.mktemp("tiles"), 600)


def test_masks_lie_where_they_are_drawn_whatever_tile_a_call_sees(found: dict[str, Any]) -> None:
    assert len(found["masked"]) == 4 * (5 if found["tiled diffusion"] else 1)
    for row in found["masked"]:
        assert row["left"] == row["right"] == 0.0, row
        assert row["effect"] > FELT, row


def test_tiles_in_one_call_are_as_tiles_by_themselves(found: dict[str, Any]) -> None:
    if not found["tiled diffusion"]:
        pytest.skip("PATCHBAY_PACKS has no ComfyUI-TiledDiffusion")
    for name, row in found["unmasked"].items():
        assert row["by itself"] < 1e-5 and row["other order"] == 0.0, name
        assert min(row["effect"], row["spots"]) > FELT, name


def test_the_plain_model_is_the_same_afterwards(found: dict[str, Any]) -> None:
    assert found["plain"] == 0.0
