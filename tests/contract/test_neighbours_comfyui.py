"""Nodes of ours beside nodes of other packs in ComfyUI, in both orders: PATCHBAY_PACKS is a folder of pack folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .children import result_of

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif("PATCHBAY_PACKS" not in os.environ, reason="PATCHBAY_PACKS names no folder of packs"),
]

Row = dict[str, Any]
FELT = 1e-3
# What needs the whole picture says so where another node has cut or merged it, and names that node
CUTTING = {
    "core HyperTile": "nodes_hypertile.",
    "core ToMe": "nodes_tomesd.",
    "Inspire HyperTile": "ComfyUI-Inspire-Pack: inspire.a1111_compat",
}
WHOLE = ("merging", "tiles", "windows", "points seen")
REFUSED = {(ours, theirs): name for ours in WHOLE for theirs, name in CUTTING.items()}
REFUSED |= {("downsampling", theirs): CUTTING[theirs] for theirs in ("core HyperTile", "Inspire HyperTile")}
REFUSED |= {("identity", "core ToMe"): CUTTING["core ToMe"], ("downsampling", "Advanced reference"): "another node"}
REFUSED |= {(ours, "Advanced reference"): "this block out of it" for ours in ("identity", "tiles")}
# A window of one picture has nothing to share, and the report says so
ALONE = {(ours, "AnimateDiff windows"): "never ran, the batch holds one picture" for ours in ("style", "injection")}
ALONE |= {("edit", "AnimateDiff windows"): "never ran, it found nothing to act on"}
# These take the calls from every rule, or from those of nodes before them, and the report says so
TAKEN = {("rule", "KJNodes sage"), ("guard", "KJNodes sage"), ("rule", "Advanced reference")}
# What listens changes no picture, another exact function by rounding only, and so does a compiler that changes nothing
NO_PICTURE = ("rule", "guard", "words seen", "points seen")
SAME_PICTURE = "core TorchCompile"
CROSS = ("temperature", "regions", "normalized")
REPLACED = (*CROSS, "edit", "sparse", "word mask", "word weight", "words seen")  # cross-attention of all blocks
LEFT_OUT = ("regions", "normalized", "values", "word mask", "word weight")  # what changes only keys and values
# Each sees the further prediction of the other, which is of a blurred picture
SEE_EACH_OTHER = ("self-attention", "core SAG")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    found: list[Row] = result_of("neighbours_child.py", tmp_path_factory.mktemp("neighbours"))
    return found


@pytest.fixture(scope="module")
def pairs(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "ours" in row]


def name(row: Row) -> str:
    return f"{row['ours']} and {row['theirs']}, ours {'first' if row['ours first'] else 'last'}"


def done(pairs: list[Row]) -> Iterator[Row]:
    return (row for row in pairs if (row["ours"], row["theirs"]) not in REFUSED)


def test_every_pack_is_there_and_acts(rows: list[Row]) -> None:
    assert not [row for row in rows if "missing" in row]
    alone = {row["theirs"]: row["effect"] for row in rows if "effect" in row}
    assert len(alone) >= 33 and alone.pop(SAME_PICTURE) < FELT < min(alone.values())


def test_nothing_fails_but_what_cannot_work_and_that_names_the_fix(pairs: list[Row]) -> None:
    errors = {name(row): row["error"] for row in done(pairs) if "error" in row}
    assert not errors
    refused = [row for row in pairs if (row["ours"], row["theirs"]) in REFUSED]
    assert len(refused) == 2 * len(REFUSED)
    for row in refused:
        assert REFUSED[row["ours"], row["theirs"]] in row["error"], name(row)
        assert "take the block out of one" in row["error"] or "take this block out of it" in row["error"], name(row)


def test_both_have_their_effect_or_the_report_says_who_has_none(pairs: list[Row]) -> None:
    for row in done(pairs):
        if (row["ours"], row["theirs"]) in ALONE:
            assert row["ours_effect"] == 0.0 and ALONE[row["ours"], row["theirs"]] in row["report"]
        elif row["ours"] not in NO_PICTURE:
            assert row["ours_effect"] > FELT or "; overridden by attention-couple-ComfyUI" in row["report"], name(row)
        told = "ComfyUI-NAG: sd.openaimodel put rows of keys on 16 attentions" in row["report"]
        assert row["theirs_effect"] > FELT or told or row["theirs"] == SAME_PICTURE, name(row)
        assert told == (row["theirs"] == "KSamplerWithNAG" and row["ours"] in REPLACED), name(row)


def test_only_those_whose_prompts_are_left_out_are_overridden(pairs: list[Row]) -> None:
    overridden = {(row["ours"], row["theirs"]) for row in done(pairs) if "; overridden by" in row["report"]}
    assert overridden == {(ours, "couple") for ours in LEFT_OUT}


def test_the_order_of_the_nodes_makes_no_difference(pairs: list[Row]) -> None:
    sums: dict[tuple[str, str], list[float]] = {}
    for row in done(pairs):
        sums.setdefault((row["ours"], row["theirs"]), []).append(row["sum"])
    sums.pop(SEE_EACH_OTHER)
    assert all(one == pytest.approx(other, rel=1e-6) for one, other in sums.values())


def test_every_node_of_ours_runs_once_in_each_call(pairs: list[Row]) -> None:
    for row in (row for row in done(pairs) if (row["ours"], row["theirs"]) not in ALONE):
        taken = (row["ours"], row["theirs"]) in TAKEN and "the attention" in row["report"]
        assert ": ran " in row["report"] or taken, name(row)
    # two steps in 16 blocks, without further predictions
    for theirs in ("IPAdapter", "NAG", "PLADIS", "couple", "couple of ppm", "KSamplerWithNAG"):
        mine = [row for row in done(pairs) if row["theirs"] == theirs and row["ours"] in CROSS]
        assert len(mine) == 6 and all("ran 32 times in 16 of 16 blocks" in row["report"] for row in mine)


def test_the_inspector_names_the_packs_and_no_folder_of_this_machine(pairs: list[Row]) -> None:
    folder = str(Path(os.environ["PATCHBAY_PACKS"]).resolve())
    for row in done(pairs):
        text = "\n".join([row["report"], *row["found"]])
        assert folder not in text and "not called in the run" not in text, name(row)
    found = {theirs: " ".join(row["found"]) for row in done(pairs) for theirs in [row["theirs"]]}
    assert "ComfyUI_IPAdapter_plus: CrossAttentionPatch.Attn2Replace" in found["IPAdapter"]
    assert "sd-perturbed-attention: nag_nodes.nag_attn2_replace_wrapper" in found["NAG"]
    assert "block.forward" in found["TPG"] and "sd-perturbed-attention: tpg_nodes" in found["TPG"]
    assert "ComfyUI-ppm: src.attention_couple.unet_couple" in found["couple of ppm"]
    assert "ComfyUI-AnimateDiff-Evolved: animatediff.model_injection" in found["AnimateDiff"]
    assert "ComfyUI-bleh: py.nodes.deepShrink" in found["bleh Deep Shrink"]
    assert "ComfyUI-Inspire-Pack: inspire.a1111_compat" in found["Inspire HyperTile"]
    assert "ComfyUI-KJNodes: nodes.model_optimization_nodes" in found["KJNodes sage"]


def test_the_plain_model_is_the_same_afterwards(rows: list[Row]) -> None:
    assert all(row["plain"] == 0.0 for row in rows)
