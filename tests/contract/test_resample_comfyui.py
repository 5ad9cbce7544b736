"""Nodes of ours where detailers and upscalers sample parts of a picture anew; PATCHBAY_PACKS is a folder of packs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .children import result_of

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif("PATCHBAY_PACKS" not in os.environ, reason="PATCHBAY_PACKS names no folder of packs"),
]

FELT, ROUNDING = 5e-3, 1.1 / 255  # pictures are made of bytes on the way
NO_PICTURE = ("rule", "guard")
PARTS = ("tiles", "tiles at once", "seams", "details")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result_of("resample_child.py", tmp_path_factory.mktemp("resample"))
    return found


def test_every_pack_is_there(rows: list[dict[str, Any]]) -> None:
    assert not [row for row in rows if "missing" in row]
    assert {row["theirs"] for row in rows} == {*PARTS, "larger"}


def test_every_node_of_ours_has_its_effect(rows: list[dict[str, Any]]) -> None:
    for row in (row for row in rows if "ours" in row):
        least, most = (0.0, ROUNDING) if row["ours"] in NO_PICTURE else (FELT, 1.0)
        assert least <= row["effect"] <= most, row


def test_a_mask_that_does_not_fit_a_part_is_told(rows: list[dict[str, Any]]) -> None:
    for row in (row for row in rows if "ours" in row):
        told = "A mask of 256x128 lies on a picture of" in "".join(row["told"])
        assert told == (row["ours"] == "regions" and row["theirs"] in PARTS), row


def test_the_plain_model_is_the_same_afterwards(rows: list[dict[str, Any]]) -> None:
    assert all(row["plain"] == 0.0 for row in rows if "plain" in row)
