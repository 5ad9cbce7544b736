"""The layers of a LoRA file without its model: their places by name, and their norms against whole products."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.files.lora import load_lora, unet_names
from attention_patchbay.ldm_patched.modules.weight_patches import WeightPatch, calculate_weight
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.engine.lora import Place
from attention_patchbay.ldm_patched.patches.reading.lora_baked import baked
from attention_patchbay.ldm_patched.patches.reading.lora_blocks import block_rows
from attention_patchbay.ldm_patched.patches.reading.lora_layers import lora_layers
from attention_patchbay.ldm_patched.patches.reading.lora_names import Names
from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from .loras import entries, lora
from .models import draw
from .test_branch import CASES

KEYS = Path(__file__).parents[2] / "data" / "state_dict_keys.json.gz"
UNETS = ("sd15", "sd21", "sdxl", "sdxl_refiner", "ssd1b", "svd")
NAME = "lora_unet_middle_block_1_proj_in"


def filled(shapes: dict[str, tuple[int, ...]], alpha: float | None) -> dict[str, Tensor]:
    file = {f"{NAME}.{end}": 0.3 * draw(i, *shape) for i, (end, shape) in enumerate(shapes.items())}
    return file if alpha is None else {**file, f"{NAME}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize("case", CASES)
def test_a_norm_is_that_of_the_whole_change(case: str, alpha: float | None) -> None:
    module, shapes = CASES[case]
    file = filled(shapes, alpha)
    patches, _ = load_lora(file, {NAME: "x.weight"})
    zero = torch.zeros(module.weight.shape, dtype=torch.float64)
    whole = calculate_weight([WeightPatch(1.0, patches["x.weight"])], zero, "x.weight", torch.float64)
    (layer,), _ = lora_layers(file)
    assert layer.norm == pytest.approx(float(whole.norm()), rel=1e-6) and whole.norm() > 0.1
    assert layer.keys == set(file)


def test_a_change_that_hangs_on_the_weight_has_no_norm() -> None:
    shapes = {"a1.weight": (24, 4), "a2.weight": (4, 24), "b1.weight": (32, 4), "b2.weight": (4, 24)}
    (glora,), _ = lora_layers(filled(shapes, None))
    assert (glora.kind, glora.norm, glora.rank) == ("glora", None, 4)
    (set_weight,), _ = lora_layers(filled({"set_weight": (32, 24)}, None))
    assert (set_weight.kind, set_weight.norm, set_weight.rank) == ("set", None, None)


def test_weight_decomposition_is_named() -> None:
    (layer,), _ = lora_layers(
        filled({"lora_up.weight": (32, 4), "lora_down.weight": (4, 24), "dora_scale": (32, 1)}, 2)
    )
    assert (layer.kind, layer.rank) == ("dora", 4) and layer.norm is not None
    assert f"{NAME}.dora_scale" in layer.keys


@pytest.mark.parametrize("unet", UNETS)
def test_names_of_diffusers_and_kohya_stand_where_the_own_names_do(unet: str) -> None:
    known: dict[str, Any] = json.loads(gzip.decompress(KEYS.read_bytes()))
    weights = unet_names(f"diffusion_model.{key}" for key in known[f"UNetModel_{unet}"]["keys"])
    names, own = Names(weights), Names(["input_blocks.1.0"])
    assert len(weights) > 3000
    for name, weight in weights.items():
        assert names.place(name) == own.place(weight.removeprefix("diffusion_model.").removesuffix(".weight")), name


def test_places_are_those_of_the_model() -> None:
    found = {one.path: one.place for one in lora(entries()).found}
    layers, model = lora_layers(entries())
    places = {layer.name.removeprefix("lora_unet_"): layer.place for layer in layers}
    assert model == "UNet (text of width 16)" and len(found) == len(places)
    for path, place in found.items():
        mine = places[path.replace(".", "_")]
        assert mine[1:] == place[1:] and (mine.block and mine.block[:2]) == (place.block and place.block[:2])


@pytest.mark.parametrize(
    ("name", "block", "model"),
    [
        ("lora_unet_double_blocks_3_img_attn_qkv", BlockId("double", 3), "Flux, Chroma or HunyuanVideo"),
        ("transformer.single_transformer_blocks.7.attn.to_q", BlockId("single", 7), "Flux, Chroma or HunyuanVideo"),
        ("transformer_blocks.4.img_mlp.net.2", BlockId("double", 4), "Qwen-Image"),
        ("diffusion_model.layers.9.attention.qkv", BlockId("double", 9), "Lumina or Z-Image"),
        ("diffusion_model.context_refiner.0.attention.qkv", None, "unknown"),
        ("diffusion_model.blocks.2.self_attn.q", BlockId("double", 2), "Wan"),
        ("diffusion_model.blocks.2.cross_attn.k_proj", BlockId("block", 2), "Cosmos-Predict2 or Anima"),
        ("transformer.transformer_blocks.5.attn1.to_q", BlockId("block", 5), "LTX-Video or PixArt"),
    ],
)
def test_transformers_are_told_by_the_lists_of_their_blocks(name: str, block: BlockId | None, model: str) -> None:
    names = Names([name])
    assert (names.place(name).block, names.model(None)) == (block, model)


@given(st.lists(st.text()))
def test_any_names_have_a_place_or_none(some: list[str]) -> None:
    names = Names(some)
    assert all(isinstance(names.place(name), Place) for name in some)


ENDS = ("lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "dora_scale", "hada_w1_a", "hada_w1_b")
ENDS += ("hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "a1.weight")
ENDS += ("a2.weight", "b1.weight", "b2.weight", "oft_blocks", "diff", "diff_b", "lora_A.weight", "lora_B.weight")


@given(st.dictionaries(st.sampled_from(ENDS), st.lists(st.integers(0, 3), max_size=4).map(tuple), max_size=8))
def test_files_of_strangers_are_read_or_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    file = {f"{NAME}.{end}": torch.ones(shape) for end, shape in shapes.items()}
    with contextlib.suppress(ValueError):
        layers, _ = lora_layers(file)
        rows = block_rows(layers)
        assert sum(row["layers"] for row in rows) == len(layers)
        baked(file, parse_strengths("* -> 0.5"))


def test_a_file_without_a_lora_is_refused() -> None:
    with pytest.raises(ValueError, match="no LoRA; its first key is 'a.weight'"):
        lora_layers({"a.weight": torch.ones(2)})
