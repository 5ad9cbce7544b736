"""Text encoders alone, GLIGEN, upscale models, and pictures of the output folder. Numbers: tests/contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.ldm.modules.gligen import GatedSelfAttentionDense, PositionNet
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file

NODES = catalog()
TEXT = "cond_stage_model.transformer."


def node(folder: Path, name: str, **inputs: Any) -> Any:
    with entered(Session(Folders(folder, folder / "input", folder / "output"))):
        return NODES[name].execute(**inputs).args


def save(folder: Path, kind: str, weights: dict[str, torch.Tensor]) -> None:
    (folder / kind).mkdir(exist_ok=True)
    save_file(weights, folder / kind / "a.safetensors")


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_text_encoder_alone_gives_what_it_gives_in_its_checkpoint(tmp_path: Path, prefix: str) -> None:
    weights = load_file(CHECKPOINT)
    keys = {key: key.removeprefix(TEXT).removeprefix("text_model.") for key in weights if key.startswith(TEXT)}
    save(tmp_path, "text_encoders", {prefix + name: weights[key] for key, name in keys.items()})
    (alone,) = node(tmp_path, "CLIPLoader", clip_name="a.safetensors", type="stable_diffusion")
    _, clip, _ = load_checkpoint(CHECKPOINT)
    assert torch.equal(alone.encode("a red circle"), clip.encode("a red circle"))


def test_a_file_without_a_text_encoder_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, "text_encoders", {"encoder.block.0.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: no text encoder of CLIP found"):
        node(tmp_path, "CLIPLoader", clip_name="a.safetensors", type="stable_diffusion")


def test_gligen_changes_the_picture_where_its_box_is(tmp_path: Path) -> None:
    model, clip, _ = load_checkpoint(CHECKPOINT)
    key_dim = clip.encode("x").shape[-1]
    torch.manual_seed(0)
    net = PositionNet(key_dim, key_dim)
    state = {f"position_net.{key}": torch.randn_like(value) * 0.1 for key, value in net.state_dict().items()}
    places = {
        name.rsplit(".transformer_blocks", 1)[0]: value.shape[0]
        for name, value in model.model.diffusion_model.state_dict().items()
        if name.endswith("transformer_blocks.0.norm1.weight")
    }
    for place, dim in places.items():
        layer = GatedSelfAttentionDense(dim, key_dim, max(1, dim // 64), dim // max(1, dim // 64))
        state |= {
            f"{place}.transformer_blocks.0.fuser.{key}": torch.randn_like(value)
            for key, value in layer.state_dict().items()
        }
    save(tmp_path, "gligen", state)
    (gligen,) = node(tmp_path, "GLIGENLoader", gligen_name="a.safetensors")
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
    box = {"clip": clip, "gligen_textbox_model": gligen, "width": 64, "height": 64, "x": 0, "y": 0}
    (grounded,) = node(tmp_path, "GLIGENTextBoxApply", conditioning_to=prompt, text="circle", **box)
    (twice,) = node(tmp_path, "GLIGENTextBoxApply", conditioning_to=grounded, text="square", **box)
    assert [len(entry["gligen"][2]) for _, entry in (grounded[0], twice[0])] == [1, 2] and "gligen" not in prompt[0][1]
    settings = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"model": model, "negative": prompt, "latent_image": {"samples": torch.zeros(1, 4, 8, 8)}}
    (plain,), (placed,) = (node(tmp_path, "KSampler", positive=cond, **settings) for cond in (prompt, grounded))
    assert torch.isfinite(placed["samples"]).all() and not torch.allclose(plain["samples"], placed["samples"])


def test_an_upscale_model_without_spandrel_is_refused_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    save(tmp_path, "upscale_models", {"conv.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"pip install 'attention-patchbay\[upscale\]'"):
        node(tmp_path, "UpscaleModelLoader", model_name="a.safetensors")


class Doubler:
    """An upscale model that repeats each pixel."""

    scale = 2

    def to(self, device: Any) -> None:
        """Stay."""

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        assert max(part.shape[-2:]) <= 512
        return part.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_pictures_are_enlarged_in_tiles_without_seams(tmp_path: Path) -> None:
    picture = torch.rand(1, 20, 600, 3)
    (out,) = node(tmp_path, "ImageUpscaleWithModel", upscale_model=Doubler(), image=picture)
    torch.testing.assert_close(out, picture.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_pictures_of_the_output_folder_and_channels_as_masks_are_read(tmp_path: Path) -> None:
    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        level = 255 if name == "output" else 51
        Image.fromarray(np.full((4, 5, 3), (level, 0, 102), np.uint8)).save(tmp_path / name / "a.png")
    picture, _ = node(tmp_path, "LoadImageOutput", image="a.png")
    assert picture[0, 0, 0, 0] == 1.0
    (red,) = node(tmp_path, "LoadImageMask", image="a.png", channel="red")
    (blue,) = node(tmp_path, "LoadImageMask", image="a.png [output]", channel="blue")
    assert red.shape == (1, 4, 5) and red[0, 0, 0] == pytest.approx(0.2) and blue[0, 0, 0] == pytest.approx(0.4)
    with entered(Session(Folders(tmp_path, tmp_path / "input", tmp_path / "output"))):
        assert NODES["LoadImageOutput"].validate_inputs("a.png") is True
        assert "none.png" in NODES["LoadImageOutput"].validate_inputs("none.png")


def test_a_patch_of_guidance_changes_the_result_and_a_neutral_one_does_not(tmp_path: Path) -> None:
    model, clip, _ = load_checkpoint(CHECKPOINT)
    prompt, empty = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", ""))
    settings = {"seed": 1, "steps": 1, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"positive": prompt, "negative": empty, "latent_image": {"samples": torch.zeros(1, 4, 8, 8)}}

    def sampled(name: str, **inputs: Any) -> torch.Tensor:
        chosen = node(tmp_path, name, model=model, **inputs)[0] if name else model
        return node(tmp_path, "KSampler", model=chosen, **settings)[0]["samples"]

    plain = sampled("")
    neutral = {"b1": 1.0, "b2": 1.0, "s1": 1.0, "s2": 1.0}
    for name, still, changing in (
        ("PerturbedAttentionGuidance", {"scale": 0.0}, {"scale": 3.0}),
        ("RescaleCFG", {"multiplier": 0.0}, {"multiplier": 0.7}),
        ("FreeU_V2", neutral, {**neutral, "b1": 1.5, "s1": 0.2, "b2": 1.5, "s2": 0.2}),
    ):
        torch.testing.assert_close(sampled(name, **still), plain, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(sampled(name, **changing), plain, atol=1e-2), name
