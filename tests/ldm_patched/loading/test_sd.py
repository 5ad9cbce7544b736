"""Loading a whole checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched import demo
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from attention_patchbay.ldm_patched.text.clip_model import CLIPTextModel
from safetensors.torch import save_file
from torch import Tensor

from ..tiny import UNET


def tensors(clip_width: int = 128, **unet: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    text = demo.CLIP | {"hidden_size": clip_width, "num_attention_heads": clip_width // 32}
    parts = {
        "model.diffusion_model.": UNetModel(**(UNET | {"context_dim": clip_width} | unet), operations=plain),
        "first_stage_model.": AutoencoderKL(demo.VAE | {"ch_mult": (1, 1, 1, 1)}, operations=plain),
        "cond_stage_model.transformer.": CLIPTextModel(text, torch.float32, None, plain),
    }
    return {f"{prefix}{key}": value for prefix, part in parts.items() for key, value in part.state_dict().items()}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return tensors()


@pytest.fixture
def path(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_every_weight_arrives_in_the_compute_dtype(path: Path, state: dict[str, Tensor]) -> None:
    model, clip, vae = sd.load_checkpoint(path)
    loaded = {
        "model.diffusion_model.": model.model.diffusion_model,
        "first_stage_model.": vae.first_stage_model,
        "cond_stage_model.transformer.": clip.cond_stage_model["clip_l"].transformer,
    }
    for prefix, module in loaded.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value.cpu().half(), state[prefix + key].half()), prefix + key
        assert not any(p.requires_grad for p in module.parameters()) and not module.training
    assert next(clip.cond_stage_model.parameters()).dtype == torch.float16
    if model.load_device.type == "cpu":
        assert model.model_dtype() == vae.dtype == torch.float32


def test_a_picture_from_a_file(path: Path) -> None:
    model, clip, vae = sd.load_checkpoint(path)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", ""))
    latent = {"samples": torch.zeros(2, 4, 4, 6)}
    out = common_ksampler(model, 1, 2, 2.0, "euler", "normal", positive, negative, latent)
    assert vae.decode(out["samples"]).shape == (2, 32, 48, 3)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_a_unet_alone(tmp_path: Path, state: dict[str, Tensor], prefix: str) -> None:
    whole = "model.diffusion_model."
    save_file(
        {prefix + k[len(whole) :]: v for k, v in state.items() if k.startswith(whole)}, tmp_path / "u.safetensors"
    )
    model = sd.load_unet(tmp_path / "u.safetensors")
    key = "input_blocks.0.0.weight"
    assert torch.equal(model.model.diffusion_model.state_dict()[key].cpu().float(), state[whole + key])


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("model.diffusion_model.", "no UNet found: expected model.diffusion_model.input_blocks"),
        ("first_stage_model.encoder.conv_in.weight", "no VAE found: encoder.conv_in.weight is missing"),
        ("first_stage_model.decoder.conv_in.weight", "no VAE found: expected first_stage_model.decoder.conv_in.weight"),
        ("model.diffusion_model.out.0.bias", "model.diffusion_model.out.0.bias is missing"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, state: dict[str, Tensor], drop: str, message: str) -> None:
    save_file({k: v for k, v in state.items() if not k.startswith(drop)}, tmp_path / "part.safetensors")
    with pytest.raises(sd.CheckpointError, match=message) as refusal:
        sd.load_checkpoint(tmp_path / "part.safetensors")
    assert "part.safetensors" in str(refusal.value)


def test_a_file_without_text_encoder_and_vae_loads_the_rest(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    for prefix in ("model.diffusion_model.", ""):
        whole = "model.diffusion_model."
        unet = {prefix + k.removeprefix(whole): v for k, v in state.items() if k.startswith(whole)}
        save_file(unet, tmp_path / "part.safetensors")
        caplog.clear()
        model, clip, vae = sd.load_checkpoint(tmp_path / "part.safetensors")
        assert "part.safetensors holds no text encoder" in caplog.text and "holds no VAE" in caplog.text
        assert model.model.diffusion_model.state_dict().keys() == {k.removeprefix(prefix) for k in unet}
        with pytest.raises(
            sd.CheckpointError, match=r"part.safetensors: the file holds no text encoder; take the CLIP"
        ):
            clip.tokenize("a")
        with pytest.raises(sd.CheckpointError, match=r"part.safetensors: the file holds no VAE; load one"):
            vae.decode(torch.zeros(1, 4, 4, 4))


def test_a_wrong_shape_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = "model.diffusion_model.time_embed.2.weight"
    save_file(state | {key: torch.zeros(3, 3)}, tmp_path / "shape.safetensors")
    with pytest.raises(sd.CheckpointError, match=r"time_embed.2.weight has shape \(3, 3\), expected \(128, 128\)"):
        sd.load_checkpoint(tmp_path / "shape.safetensors")


def test_a_text_encoder_without_tokenizer_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    save_file(state | {key: torch.zeros(1000, 128)}, tmp_path / "clip.safetensors")
    with pytest.raises(sd.CheckpointError, match="no tokenizer for a text encoder of 1000 tokens"):
        sd.load_checkpoint(tmp_path / "clip.safetensors")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.ckpt")
    for load in (sd.load_checkpoint, sd.load_unet):
        with pytest.raises(sd.CheckpointError, match="convert it once"):
            load(tmp_path / "model.ckpt")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident memory from /proc")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_loading_takes_little_more_memory_than_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    wide = tensors(model_channels=320, channel_mult=[2])
    save_file({key: value.to(dtype) for key, value in wide.items()}, tmp_path / "wide.safetensors")
    child = Path(__file__).with_name("loading_memory_child.py")
    command = [sys.executable, str(child), str(tmp_path / "wide.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    share, _, size, _ = done.stdout.split()
    assert int(size) > 200 and float(share) < 1.2
