"""Folders in diffusers' layout give what diffusers and transformers compute from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.text.clip_tokenizer import VOCABULARY_SIZE, clip_tokenizer
from attention_patchbay.ldm_patched.text.clip_vision import clip_preprocess, load_clip_vision
from safetensors.torch import load_file, save_file

from ..tiny import draw

SD1: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
}
SDXL: dict[str, Any] = {
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 192,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
}


def text_config(width: int, **changes: Any) -> transformers.CLIPTextConfig:
    settings = {"hidden_size": width, "intermediate_size": 128, "num_hidden_layers": 3, "projection_dim": width}
    settings |= {"num_attention_heads": width // (64 if width >= 512 else 32), "hidden_act": "quick_gelu"}
    return transformers.CLIPTextConfig(**(settings | {"bos_token_id": 49406, "eos_token_id": 49407} | changes))


def whole(module: torch.nn.Module) -> torch.nn.Module:
    """Draw every weight anew, the zeros and ones that models start with included."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + torch.randn_like(weight) * 0.05)
    return module.eval()


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    unet = diffusers.UNet2DConditionModel(**(SD1 if request.param == "sd1" else SDXL))
    found = {
        "unet": unet,
        "vae": diffusers.AutoencoderKL(**VAE),
        "text_encoder": transformers.CLIPTextModel(text_config(64)),
    }
    if request.param == "sdxl":
        config = text_config(1280, hidden_act="gelu", num_hidden_layers=2)
        found["text_encoder_2"] = transformers.CLIPTextModelWithProjection(config)
    folder = tmp_path_factory.mktemp("made")
    for name, part in found.items():
        whole(part).save_pretrained(folder / name)
    return folder, found


@pytest.fixture
def parts(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> dict[str, torch.nn.Module]:
    """The networks of a folder that is a copy for each test."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return made[1]


def test_the_unet_is_diffusers(parts: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    model, _, _ = sd.load_folder(tmp_path)
    unet, x, t = parts["unet"], draw(1, 2, 4, 8, 16), torch.tensor([10.0, 700.0])
    context = draw(2, 2, 7, unet.config.cross_attention_dim)
    more: dict[str, Any] = {}
    y = None
    if unet.config.projection_class_embeddings_input_dim:
        more = {"added_cond_kwargs": {"text_embeds": draw(3, 2, 1280), "time_ids": torch.full((2, 6), 100.0)}}
        sizes = unet.add_time_proj(torch.full((12,), 100.0)).reshape(2, -1)
        y = torch.cat([draw(3, 2, 1280), sizes], dim=1)
    with torch.no_grad():
        expected = unet(x, t, context, **more).sample
        out = model.model.diffusion_model(x, t, context, y=y)
    assert (out - expected).norm() / expected.norm() < 1e-5


def test_the_vae_is_diffusers(parts: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    _, _, vae = sd.load_folder(tmp_path)
    z, pixels = draw(1, 1, 4, 4, 6), draw(2, 1, 16, 8, 3).sigmoid()
    with torch.no_grad():
        picture = parts["vae"].decode(z).sample.movedim(1, -1) / 2 + 0.5
        latent = parts["vae"].encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mean
    assert (vae.decode(z) - picture.clamp(0, 1)).abs().max() < 1e-5
    assert (vae.encode(pixels) - latent).norm() / latent.norm() < 1e-5


def test_the_text_encoders_are_those_of_transformers(parts: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    _, clip, _ = sd.load_folder(tmp_path)
    ids = clip_tokenizer()("a photo of a cat, 8k")["input_ids"]
    padded = torch.tensor([ids + [ids[-1]] * (77 - len(ids))])
    cond, pooled = clip.encode_from_tokens(clip.tokenize("a photo of a cat, 8k"), return_pooled=True)
    with torch.no_grad():
        first = parts["text_encoder"].half().float()(padded, output_hidden_states=True)
        if "text_encoder_2" not in parts:
            expected, end = first.last_hidden_state, first.pooler_output
        else:
            zeros = torch.tensor([ids + [0] * (77 - len(ids))])
            second = parts["text_encoder_2"].half().float()(zeros, output_hidden_states=True)
            expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
            end = second.text_embeds
    assert (cond - expected).norm() / expected.norm() < 1e-4
    assert (pooled - end).norm() / end.norm() < 1e-4


def test_shards_and_variants_are_found(parts: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    before = sd.load_folder(tmp_path)[0].model.diffusion_model.state_dict()
    names = sorted(state)
    for i, some in enumerate((names[::2], names[1::2])):
        shard = file.with_name(f"diffusion_pytorch_model.fp16-0000{i + 1}-of-00002.safetensors")
        save_file({name: state[name] for name in some}, shard)
    file.unlink()
    after = sd.load_folder(tmp_path)[0].model.diffusion_model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_scheduler_says_what_is_predicted(parts: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    assert sd.load_folder(tmp_path)[0].model.model_config.prediction == "eps"
    (tmp_path / "scheduler").mkdir()
    text = json.dumps({"prediction_type": "v_prediction"})
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(text)
    assert sd.load_folder(tmp_path)[0].model.model_config.prediction == "v_prediction"


@pytest.mark.parametrize("parts", ["sd1"], indirect=True)
def test_a_missing_part_is_named(parts: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(sd.CheckpointError, match="no weights in vae: expected .* found .*diffusion_pytorch_model.bin"):
        sd.load_folder(tmp_path)
    with pytest.raises(sd.CheckpointError, match="elsewhere: no weights in unet: .* found nothing"):
        sd.load_folder(tmp_path / "elsewhere")


def test_a_single_part_loads_alone(parts: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    model = sd.load_unet(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    vae = sd.load_vae(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert model.model.model_config.family in ("sd1", "sdxl") and vae.downscale_ratio == 2
    assert clip_tokenizer()("")["input_ids"] == [VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1]


def test_a_video_unet_is_diffusers(tmp_path: Path) -> None:
    theirs = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(64, 128),
        layers_per_block=2,
        num_attention_heads=(1, 2),
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )
    whole(theirs).save_pretrained(tmp_path)
    model = sd.load_unet(tmp_path / "diffusion_pytorch_model.safetensors").model
    x, context, ids = draw(1, 1, 3, 8, 8, 8), draw(2, 1, 1, 32), torch.tensor([[5.0, 127.0, 0.02]])
    with torch.no_grad():
        expected = theirs(x, torch.tensor(1.4), context, ids).sample[0]
        y = theirs.add_time_proj(ids.flatten()).reshape(1, -1).repeat(3, 1)
        frames = {"num_video_frames": 3, "image_only_indicator": torch.zeros(1, 3)}
        out = model.diffusion_model(x[0], torch.full((3,), 1.4), context.repeat(3, 1, 1), y=y, **frames)
    assert model.model_config.family == "svd"
    # diffusers has an epsilon of 1e-6 where the public model has 1e-5
    assert (out - expected).norm() / expected.norm() < 1e-4


def test_a_video_vae_is_diffusers(tmp_path: Path) -> None:
    theirs = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=2
    )
    whole(theirs).save_pretrained(tmp_path)
    vae = sd.load_vae(tmp_path / "diffusion_pytorch_model.safetensors")
    z, pixels = draw(1, 3, 4, 4, 6), draw(2, 2, 16, 8, 3).sigmoid()
    with torch.no_grad():
        frames = theirs.decode(z, num_frames=3).sample.movedim(1, -1) / 2 + 0.5
        latent = theirs.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mean
    assert (vae.decode(z) - frames.clamp(0, 1)).abs().max() < 1e-5
    assert (vae.encode(pixels) - latent).norm() / latent.norm() < 1e-5


def test_a_picture_encoder_is_that_of_transformers(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "patch_size": 32,
        "hidden_act": "gelu",
    }
    theirs = whole(
        transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**sizes, num_attention_heads=1, projection_dim=32)
        )
    )
    theirs.half().float().save_pretrained(tmp_path)
    vision = load_clip_vision(tmp_path / "model.safetensors")
    picture = draw(3, 1, 224, 224, 3).sigmoid()
    with torch.no_grad():
        expected = theirs(clip_preprocess(picture)).image_embeds
    found = vision.encode_image(picture).image_embeds
    assert (found - expected).norm() / expected.norm() < 1e-4
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(sd.CheckpointError, match="other.safetensors: no CLIP vision model found"):
        load_clip_vision(tmp_path / "other.safetensors")
