"""LoRA names against diffusers' own modules, and patches against their formula."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from attention_patchbay.ldm_patched.files.diffusers_keys import unet_to_diffusers
from attention_patchbay.ldm_patched.files.lora import LAYOUTS, clip_names, load_lora, unet_names
from torch import Tensor

from .. import tiny, tiny_video

FACTS = json.loads(gzip.decompress((Path(__file__).parents[2] / "data" / "state_dict_keys.json.gz").read_bytes()))
ATTENTION = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", ATTENTION[0], ATTENTION[0]),
    "up_block_types": (ATTENTION[1], ATTENTION[1], "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize(("name", "config"), [("sd15", {"cross_attention_dim": 768}), ("sdxl", SDXL)])
def test_every_parameter_has_the_name_and_shape_that_diffusers_gives_it(name: str, config: dict[str, Any]) -> None:
    facts = FACTS[f"UNetModel_{name}"]["keys"]
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**config).state_dict()
    mapped = unet_to_diffusers(facts)
    assert set(mapped) == set(theirs)
    assert set(mapped.values()) == set(facts)
    for there, here in mapped.items():
        assert list(theirs[there].shape) == facts[here], there


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


LDM = "output_blocks.0.1.transformer_blocks.0.attn2.to_out.0"
WEIGHT = f"diffusion_model.{LDM}.weight"
DIFFUSERS = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
@pytest.mark.parametrize(
    "name",
    [
        f"lora_unet_{LDM.replace('.', '_')}",
        f"lora_unet_{DIFFUSERS.replace('.', '_')}_0",
        f"lycoris_{DIFFUSERS.replace('.', '_')}_0",
        f"unet.{DIFFUSERS.replace('to_out', 'processor.to_out')}",
        f"unet.{DIFFUSERS}.0",
        f"diffusion_model.{LDM}",
    ],
)
def test_each_way_to_write_an_entry_changes_the_weight_by_the_formula(name: str, layout: tuple) -> None:
    patcher = tiny.patcher()
    weight = patcher.model.state_dict()[WEIGHT].clone()
    up, down = draw(weight.shape[0], 3), draw(3, weight.shape[1])
    file = {name + layout[0]: up, name + layout[1]: down, f"{name}.alpha": torch.tensor(2.0)}
    patches, unused = load_lora(file, unet_names(patcher.model.state_dict()))
    assert unused == set()
    assert list(patches) == [WEIGHT]
    clone = patcher.clone()
    assert clone.add_patches(patches, 0.7) == [WEIGHT]
    clone.patch_model()
    wanted = weight.double() + 0.7 * 2.0 / 3 * (up.double() @ down.double())
    assert (clone.model.state_dict()[WEIGHT].double() - wanted).abs().max() < 1e-6
    clone.unpatch_model()
    assert torch.equal(patcher.model.state_dict()[WEIGHT], weight)


def test_a_convolution_with_a_middle_matrix() -> None:
    patcher = tiny.patcher()
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    weight = patcher.model.state_dict()[key].clone()
    out, into = weight.shape[:2]
    up, down, mid = draw(out, 2, 1, 1), draw(2, into, 1, 1), draw(2, 2, 3, 3)
    name = "lora_unet_mid_block_resnets_0_conv1"
    file = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.lora_mid.weight": mid}
    patches, unused = load_lora(file, unet_names(patcher.model.state_dict()))
    assert unused == set()
    patcher.add_patches(patches, 1.0)
    patcher.patch_model()
    wanted = weight + torch.einsum("or,rshw,si->oihw", up[..., 0, 0], mid, down[..., 0, 0])
    assert torch.allclose(patcher.model.state_dict()[key], wanted, atol=1e-5)


def test_differences_and_biases() -> None:
    keys = {"diffusion_model.out.2.weight": None, "diffusion_model.out.2.bias": None}
    file = {"lora_unet_conv_out.diff": draw(2), "lora_unet_conv_out.diff_b": draw(3)}
    patches, unused = load_lora(file, unet_names(keys))
    assert unused == set()
    assert {key: kind for key, (kind, _) in patches.items()} == dict.fromkeys(keys, "diff")


def test_what_belongs_to_no_weight_is_returned() -> None:
    file = {"lora_unet_nowhere.lora_up.weight": draw(1), "lora_unet_nowhere.lora_down.weight": draw(1)}
    assert load_lora(file, unet_names(["diffusion_model.out.2.weight"])) == ({}, set(file))


def test_two_text_encoders_are_told_apart() -> None:
    layer = "transformer.text_model.encoder.layers.3.self_attn.q_proj.weight"
    flat = "text_model_encoder_layers_3_self_attn_q_proj"
    names = clip_names([f"clip_l.{layer}", f"clip_g.{layer}"])
    assert names[f"lora_te1_{flat}"] == names[f"lora_te_{flat}"] == f"clip_l.{layer}"
    assert names[f"lora_te2_{flat}"] == f"clip_g.{layer}"
    assert names["text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj"] == f"clip_g.{layer}"
    alone = clip_names([f"clip_g.{layer}"])
    assert alone[f"lora_te_{flat}"] == f"clip_g.{layer}"


def test_a_video_unets_layers_over_time_have_their_own_names_only() -> None:
    facts = tiny_video.unet().state_dict()
    names = unet_names([f"diffusion_model.{key}" for key in facts])
    inside = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    over_time = "diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_q.weight"
    assert names["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == inside
    assert [name for name, key in names.items() if key == over_time] == [
        over_time.removesuffix(".weight"),
        "lora_unet_input_blocks_1_1_time_stack_0_attn1_to_q",
    ]
