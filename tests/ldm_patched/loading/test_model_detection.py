"""Configurations from the keys and shapes of public checkpoints."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched import demo
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL, VideoAutoencoder
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.loading.model_detection import detect_unet, detect_vae, model_config
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import disable_weight_init
from attention_patchbay.ldm_patched.patches.reading.block_map import block_map
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES

from ..tiny import draw

DATA = Path(__file__).parents[2] / "data" / "state_dict_keys.json.gz"
FAMILIES = {
    "sd15": ("sd1", 8, -1, 4, None),
    "sd15_inpaint": ("sd1", 8, -1, 9, "inpaint"),
    "sd21": ("sd2", -1, 64, 4, None),
    "sdxl": ("sdxl", -1, 64, 4, None),
    "sdxl_refiner": ("sdxl_refiner", -1, 64, 4, None),
    "ssd1b": ("sdxl", -1, 64, 4, None),
    "koala_700m": ("sdxl", -1, 64, 4, None),
}


def public(name: str) -> dict[str, tuple[int, ...]]:
    with gzip.open(DATA, "rt") as file:
        keys = json.load(file)[f"UNetModel_{name}"]["keys"]
    return {key: tuple(shape) for key, shape in keys.items()}


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def build(config: dict[str, Any]) -> UNetModel:
    return UNetModel(**config, device="meta", operations=disable_weight_init)


@pytest.mark.parametrize("name", FAMILIES)
def test_public_unets(name: str) -> None:
    family, heads, head_channels, in_channels, concat = FAMILIES[name]
    keys = public(name)
    config = detect_unet(keys)
    assert shapes(build(config)) == keys
    assert (config["num_heads"], config["num_head_channels"]) == (heads, head_channels)
    assert config["in_channels"] == in_channels
    found = model_config(config)
    assert (found.family, found.concat, found.prediction) == (family, concat, "eps")
    assert found.latent_format.scale_factor == (0.13025 if "sdxl" in family else 0.18215)


def test_the_public_video_unet() -> None:
    keys = public("svd")
    config = detect_unet(keys)
    assert shapes(build(config)) == keys
    assert (config["num_heads"], config["num_head_channels"], config["in_channels"]) == (-1, 64, 8)
    assert config["video_kernel_size"] == [3, 1, 1] and config["merge_strategy"] == "learned_with_images"
    assert not config["disable_temporal_crossattention"]
    without = {key: shape for key, shape in keys.items() if not (".time_stack." in key and (".attn2." in key))}
    without = {key: shape for key, shape in without.items() if ".time_stack.0.norm2." not in key}
    assert detect_unet(without)["disable_temporal_crossattention"]
    assert shapes(build(detect_unet(without))) == without
    found = model_config(config)
    assert (found.family, found.concat, found.prediction) == ("svd", None, "v_prediction")
    assert found.unet["attn_precision"] == torch.float32
    assert found.latent_format.scale_factor == 0.18215


def test_a_prefix_is_left_out() -> None:
    keys = {f"model.diffusion_model.{key}": shape for key, shape in public("sd15").items()}
    keys["first_stage_model.encoder.conv_in.weight"] = (128, 3, 3, 3)
    assert detect_unet(keys, "model.diffusion_model.") == detect_unet(public("sd15"))


def test_the_demo_unet() -> None:
    config = detect_unet(shapes(build(demo.UNET)))
    assert shapes(build(config)) == shapes(build(demo.UNET))
    assert config["num_heads"] == demo.UNET["num_heads"] == 8
    assert model_config(config).family == "sd1"


def test_velocity_prediction_is_marked_by_a_key_or_a_wide_bias() -> None:
    sdxl, sd2 = detect_unet(public("sdxl")), detect_unet(public("sd21"))
    velocity = model_config(sdxl, {"v_pred": None})
    assert velocity.prediction == "v_prediction" and not velocity.zsnr
    assert model_config(sdxl, {"v_pred": None, "ztsnr": None}).zsnr
    assert model_config(sd2, spread=0.2).prediction == "v_prediction"
    assert model_config(sd2, spread=0.05).prediction == "eps"
    assert model_config(sd2 | {"in_channels": 9}, spread=0.2).prediction == "eps"
    assert model_config(detect_unet(public("sd15")), spread=0.2).prediction == "eps"


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match="no UNet found: expected keys such as input_blocks.0.0.weight, found a, b"
    ):
        detect_unet({"a": (1,), "b": (2,)})
    with pytest.raises(CheckpointError, match="unknown video UNet: vector conditioning 256, 8 input channels"):
        model_config(detect_unet(public("svd")) | {"adm_in_channels": 256})
    with pytest.raises(CheckpointError, match="context 1024, vector conditioning 2048"):
        model_config(detect_unet(public("sd21_unclip_h")))
    with pytest.raises(CheckpointError, match="7 input and 4 output channels"):
        model_config(detect_unet(public("sd15")) | {"in_channels": 7})
    keys = {key: shape for key, shape in public("sd15").items() if not key.startswith("input_blocks.4.0.")}
    with pytest.raises(CheckpointError, match="input_blocks.4 is neither"):
        detect_unet(keys)


@pytest.mark.parametrize(
    "changes", [{}, {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}, {"ch": 64, "ch_mult": [1, 2]}, {"z_channels": 16}]
)
def test_vaes(changes: dict[str, Any]) -> None:
    wanted = demo.VAE | changes
    model = AutoencoderKL(wanted, wanted["z_channels"], device="meta")
    config = detect_vae(shapes(model))
    assert shapes(AutoencoderKL(config, config["embed_dim"], device="meta")) == shapes(model)
    for name in ("ch", "num_res_blocks", "z_channels", "in_channels", "out_ch"):
        assert config[name] == wanted[name]
    assert list(config["ch_mult"]) == list(wanted["ch_mult"])


def test_a_video_vae() -> None:
    wanted = demo.VAE | {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    model = VideoAutoencoder(wanted, wanted["z_channels"], device="meta")
    config = detect_vae(shapes(model))
    assert config["video"] and not detect_vae(shapes(AutoencoderKL(wanted, device="meta")))["video"]
    assert shapes(VideoAutoencoder(config, config["embed_dim"], device="meta")) == shapes(model)


def test_no_vae() -> None:
    with pytest.raises(CheckpointError, match="no VAE found: vae.encoder.conv_in.weight is missing"):
        detect_vae({"vae.x": (1,)}, "vae.")


def test_sdxl_sizes_are_embedded_behind_the_pooled_text() -> None:
    pooled = draw(0, 2, 1280)
    unet = detect_unet(public("sdxl"))
    model = MODEL_CLASSES["sdxl"](model_config(unet), device="meta")
    vector = model.encode_adm(pooled_output=pooled, width=1024, height=768, crop_w=8, target_width=512)
    assert vector.shape == (2, 2816) and torch.equal(vector[:, :1280], pooled)
    blocks = vector[0, 1280:].reshape(6, 256)
    # the first cosine of each embedding has frequency 1: height, width, crop_h, crop_w, target height, target width
    torch.testing.assert_close(blocks[:, 0], torch.cos(torch.tensor([768.0, 1024, 0, 8, 768, 512])))
    refiner = MODEL_CLASSES["sdxl_refiner"](model_config(detect_unet(public("sdxl_refiner"))), device="meta")
    scores = [refiner.encode_adm(pooled_output=pooled, prompt_type=side)[0, -256] for side in ("positive", "negative")]
    torch.testing.assert_close(torch.stack(scores), torch.cos(torch.tensor([6.0, 2.5])))


@pytest.mark.parametrize(
    ("title", "name"), [("SD1.5", "sd15"), ("SD2", "sd21"), ("SDXL", "sdxl"), ("SDXL refiner", "sdxl_refiner")]
)
def test_the_page_draws_the_blocks_of_well_known_models(title: str, name: str) -> None:
    script = (Path(__file__).parents[3] / "web" / "models.js").read_text()
    table = script.partition(f"'{title}': [")[2].partition("\n  ]")[0]
    drawn = json.loads(f"[{table}]".replace("'", '"'))
    shapes = public(name)
    model = ModelPatcher(sd.build_model(model_config(detect_unet(shapes), shapes)), *2 * [torch.device("cpu")])
    found = [list(block) for block in block_map(model)]
    assert drawn == [block[:-1] for block in found] and {block[-1] for block in found} == {
        ""
    }  # no file asks for functions
