"""Check LoRA by rules against ComfyUI's own loader on tiny models of all transformer families that it brings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .children import result_of
from .lora_demo import pictures
from .tiny_families import FAMILIES

pytestmark = pytest.mark.comfyui
# Layers that are neither linear nor a convolution: a gate of experts, a transposed convolution, those of a StyleGAN
LOST = {"HiDream": "ff_i.gate", "ACE-Step 1.5": "proj_out.1", "Wan Animate": "motion_encoder"}
# Regions: some layers get the pixels of a token as a row
APART = ("Chroma Radiance", "PixelDiT")
# a region everywhere is not quite its prompt alone, whose conditioning has more than tokens
VAGUE = ("Z-Image", "AuraFlow", "Mochi", "Wan VACE", "CogVideoX")
NOWHERE = ("Cosmos",)  # none of its layers gets (row, token, channel)
REFUSED = ("Hunyuan3D 2", "Wan Animate 2", "CausalWan", "Stable Cascade", "PixArt", "Hunyuan-DiT", "Ernie")
REFUSED = (*REFUSED, "ACE-Step 1.5")
EXACT = [name for name in FAMILIES if name not in (*APART, *VAGUE, *NOWHERE, *REFUSED)]
BEFORE = ("Anima",)  # its adapter of the text runs before the sampling
UNNAMED = ("Stable Cascade", "ACE-Step 1.5")  # of no blocks that an address names
# whose names are those of others: Z-Image's layers, blocks within blocks
MISNAMED = ("Ideogram 4", "Cosmos")
# A video from the first step of CogVideoX is quantised: 1e-6 of noise on a weight moves it by 1e-5
TOLERANCE = dict.fromkeys(FAMILIES, 1e-5) | {"CogVideoX": 1e-4}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = result_of("lora_layers_child.py", tmp_path_factory.mktemp("lora_layers"))
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_one_strength_everywhere_is_comfyuis_own_loader(results: dict[str, Any], name: str) -> None:
    found = results[name]
    assert found["moves"] > 0.01
    assert name in LOST or name in BEFORE or found["everywhere"] < TOLERANCE[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_has_a_place_or_is_named(results: dict[str, Any], name: str) -> None:
    used, entries = results[name]["keys"]
    assert entries > 40 and (used == entries) is (name not in LOST)
    assert all(LOST[name] in key for key in results[name]["lost"])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in UNNAMED])
def test_a_rule_is_comfyuis_own_loader_with_the_entries_of_a_block(results: dict[str, Any], name: str) -> None:
    error, moved = results[name]["block"]
    assert error < min(TOLERANCE[name], 0.6 * moved)


@pytest.mark.parametrize("name", FAMILIES)
def test_names_alone_tell_the_block(results: dict[str, Any], name: str) -> None:
    assert (results[name]["misplaced"] == 0) is (name not in MISNAMED)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_window_outside_of_the_run_changes_nothing(results: dict[str, Any], name: str) -> None:
    assert results[name]["nowhere"]


@pytest.mark.parametrize("name", EXACT)
def test_a_region_everywhere_is_the_lora_everywhere(results: dict[str, Any], name: str) -> None:
    found = results[name]["region"]
    assert found["layers"] > 25 and found["moves"] > 0.01
    assert found["without"] < 2e-5 and found["with"] < 2e-5
    assert min(found["half"]) > 5e-3


@pytest.mark.parametrize("name", [*APART, *VAGUE])
def test_a_region_of_others_acts(results: dict[str, Any], name: str) -> None:
    assert results[name]["region"]["moves"] > 0.01 and min(results[name]["region"]["half"]) > 5e-3


@pytest.mark.parametrize("name", REFUSED)
def test_a_region_is_refused_where_nobody_knows_the_tokens(results: dict[str, Any], name: str) -> None:
    assert isinstance(results[name]["region"], str)


def sampled(model: Any, noise: Tensor, positive: Any, negative: Any) -> Tensor:
    return samplers.sample(model, noise, positive, negative, 3.0, 3, "euler", "simple", 1.0, seed=1)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def test_both_hosts_give_the_same_pictures(results: dict[str, Any]) -> None:
    theirs = {name: torch.tensor(one) for name, one in results["demo"].items()}
    for name, ours in pictures(sampled).items():
        assert apart(ours, theirs[name]) < 1e-4, name
        assert name == "plain" or apart(ours, theirs["plain"]) > 1e-2, name
    assert apart(theirs["whole"], theirs["attn1"]) < 1e-4


def test_the_node_gives_what_comfyuis_loader_gives_also_compiled(results: dict[str, Any]) -> None:
    found = results["node"]
    assert {"none", "style.safetensors"} <= set(found["names"])
    assert found["apart"] < 1e-5 and found["moves"] > 0.01
    assert found["compiled"] < 1e-5 and found["rules"] > 0.01 and found["after"] == 0.0


def test_only_keys_that_fit_neither_model_nor_text_encoder_are_told_and_once(results: dict[str, Any]) -> None:
    keys = [f"lora_unet_nowhere.lora_{end}.weight" for end in ("down", "up")]
    assert sorted(results["node"]["logged"]) == [f"lora key not loaded: {key}" for key in keys]
