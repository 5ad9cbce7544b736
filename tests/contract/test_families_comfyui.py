"""Check patches and rules on tiny models of the transformer families that ComfyUI brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_patchbay.headless.commands.model_info import model_info, model_of
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.blocks import check_address
from safetensors.numpy import save_file

from .children import result_of

pytestmark = pytest.mark.comfyui
DOUBLE_SINGLE = "double:0, double:1, single:0, single:1"
BLOCKS = {"Flux": DOUBLE_SINGLE, "Chroma": DOUBLE_SINGLE, "HunyuanVideo": DOUBLE_SINGLE, "Krea2": "single:0, single:1"}
BLOCKS |= {"Qwen-Image": "double:0, double:1", "Cosmos-Predict2": "block:0, block:1", "Wan": "double:0, double:1"}
JOINT = ["Flux", "Chroma", "HunyuanVideo", "Krea2"]
NOWHERE = {"identity attn1.out", "zero attn2.out", "zero middle"}
# What is refused beside that, of the patches that the child tries.
REFUSED = dict.fromkeys(JOINT, {"zero attn2.k"}) | {"Qwen-Image": {"zero attn2.k", "clamp attn1.out"}}
REFUSED |= {"Cosmos-Predict2": {"temperature attn1.q", "clamp attn1.out"}}
REFUSED |= {"Wan": {"zero attn2.k", "temperature attn1.q", "noise attn1.q"}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = result_of("families_child.py", tmp_path_factory.mktemp("families"))
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_a_patch_does_what_one_by_hand_does(results: dict[str, Any], name: str) -> None:
    assert results[name]["blocks"] == BLOCKS[name] and results[name]["hand"]
    for found in results[name]["hand"]:
        assert found["effect"] > 1e-3 and found["error"] < 1e-5
        assert found["closed"]


@pytest.mark.parametrize("name", BLOCKS)
def test_what_has_no_place_is_refused_with_the_family_and_what_works(results: dict[str, Any], name: str) -> None:
    refused = results[name]["refused"]
    assert set(refused) == NOWHERE | REFUSED[name]
    assert all(f"{name} models" in text for text in refused.values())
    assert "what works on them: Attention Patch on attn1." in refused["identity attn1.out"]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_rule_takes_one_block(results: dict[str, Any], name: str) -> None:
    rows = results[name]["rule"]
    last = BLOCKS[name].split(", ")[-1]
    kinds = ["self"] if "cross" in results[name] else ["self", "cross"]
    heads = "2 x 128" if name == "Wan" else "2 x 16"  # ComfyUI gives every Wan model heads of 128
    assert [row for row in rows if row[3] == "basic"] == [[last, kind, heads, "basic", 2] for kind in kinds]
    inside = [row for row in rows if row[0] != "-"]
    assert [row[:2] for row in inside] == [[block, kind] for block in BLOCKS[name].split(", ") for kind in kinds]
    assert all(row[4] == 2 for row in inside)


def test_joint_attention_has_no_kinds(results: dict[str, Any]) -> None:
    for name in (*JOINT, "Qwen-Image"):
        assert "one attention of text and picture" in results[name]["cross"]


def test_a_family_without_patches_takes_rules_by_block(results: dict[str, Any]) -> None:
    found = results["Lumina"]
    assert found["blocks"] == "double:0, double:1"
    assert ["double:1", "-", "2 x 16", "basic", 2] in found["rule"]
    assert len(found["refused"]) == 7 and all(
        text.endswith("works on them: backend rules") for text in found["refused"].values()
    )
    assert "do not tell self from cross" in found["cross"]


@pytest.mark.parametrize("name", [*BLOCKS, "Lumina"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_header_of_a_file_tells_what_the_model_does(
    results: dict[str, Any], name: str, prefix: str, tmp_path: Path
) -> None:
    shapes = results[name]["shapes"]
    if name == "Lumina":  # public models have it, and ComfyUI knows them by it
        shapes |= {"layers.0.attention.k_norm.weight": [16]}
    tensors = {f"{prefix}{key}": np.zeros(shape, np.float16) for key, shape in shapes.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    found = model_info(tmp_path / "m.safetensors")
    assert found["family"] == name and found["parts"] == ["transformer"]
    expected = [[row[key] for key in ("name", "depth", "heads", "dim_head")] for row in results[name]["map"]]
    assert [[block[key] for key in ("address", "depth", "heads", "dim_head")] for block in found["blocks"]] == expected
    last = expected[-1][0]
    check_address(parse(last), model_of(tmp_path / "m.safetensors"))
    with pytest.raises(AddressError, match=f"{name}|has"):
        check_address(parse(last.replace("1", "2")), model_of(tmp_path / "m.safetensors"))
