"""Gates around nodes of ComfyUI on a UNet, and around every slot of transformers; with PATCHBAY_PACKS also other packs.

Open all the time they change nothing, shut they leave a model without the patch, to the bit.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui
Row = dict[str, Any]
CORE = ("core PAG", "core SAG", "core HyperTile", "core ToMe", "core FreeU", "core Deep Shrink", "core NAG")
PACKS = ("IPAdapter", "NAG", "PAG", "SEG", "TPG", "PLADIS", "couple", "couple of ppm", "bleh Deep Shrink")
GUIDANCE = ("core PAG", "PAG", "SEG", "TPG")  # nothing of theirs is called by block
MIDDLE = ("IPAdapter", "NAG", "couple", "couple of ppm", "core NAG")  # these change what the middle block does


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    both: dict[str, list[Row]] = result_of("gate_child.py", tmp_path_factory.mktemp("gate"))
    return both


@pytest.fixture(scope="module")
def rows(found: dict[str, list[Row]]) -> dict[str, Row]:
    return {row["theirs"]: row for row in found["unet"] + found["transformers"]}


def test_every_node_and_slot_is_held(rows: dict[str, Row]) -> None:
    assert set(CORE) <= set(rows) and len([name for name in rows if name.startswith(("Flux", "Wan", "Qwen"))]) == 11
    assert "PATCHBAY_PACKS" not in os.environ or set(PACKS) <= set(rows)
    for name, row in rows.items():
        assert row["effect"] > 1e-6 and row["shut"] == 0.0 and row["wide"] == 0.0, name


def test_half_a_run_is_something_between(rows: dict[str, Row]) -> None:
    for name, row in rows.items():
        assert min(row["half"]) > 1e-7, name
        assert "let through" in row["report"] and "held back" in row["report"], name


def test_blocks_are_taken_alone_or_left_out(rows: dict[str, Row]) -> None:
    for name, row in rows.items():
        if name in GUIDANCE:
            assert "it is called for the whole model and not by block" in row["no blocks"]
        elif name in MIDDLE or " " in name and name.split(" ")[0] in ("Flux", "Wan", "Qwen-Image", "Anima"):
            assert min(row["blocks"]) > 1e-5, name


def test_slots_of_transformers_are_as_limited_by_hand(found: dict[str, list[Row]]) -> None:
    for row in found["transformers"]:
        assert row["by hand"] == {"block": 0.0, "side": 0.0}, row["theirs"]


def test_what_stands_in_the_place_of_a_method_is_told(rows: dict[str, Row]) -> None:
    if "TPG" not in rows:
        pytest.skip("PATCHBAY_PACKS has no sd-perturbed-attention")
    assert "(block.forward): it stands in the place of a method of the network." in rows["TPG"]["report"]


def test_a_gate_around_ipadapter_is_what_its_own_widgets_do(found: dict[str, Any]) -> None:
    if found["ipadapter"] is None:
        pytest.skip("PATCHBAY_PACKS has no ComfyUI_IPAdapter_plus")
    assert found["ipadapter"] == {"end": 0.0, "block": 0.0, "joined": 0.0}


def test_the_inspector_names_the_gate(rows: dict[str, Row]) -> None:
    for name, row in rows.items():
        schedules = [schedule for slot, owner, schedule in row["found"] if not owner.startswith("1. ")]
        assert "1. gate all on all 0-50%" in schedules, name
