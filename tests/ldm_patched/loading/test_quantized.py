"""Files whose weights are held in fewer bits: fp8 with scales is right, everything else is refused by name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from attention_patchbay.ldm_patched.files.model_file import model_file, report_unused
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.modules.ops import FP8
from safetensors.torch import save_file
from torch import Tensor

from ...unets import draw
from .test_sd import tensors


def told(text: str) -> Tensor:
    return torch.tensor(list(text.encode("latin-1")), dtype=torch.uint8)


FORMAT = '{"format": "float8_e4m3fn"}'
PARTS = ("model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model.")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return tensors()


def is_layer(key: str, value: Tensor) -> bool:
    return key.endswith(".weight") and value.ndim > 1


def quantised(state: dict[str, Tensor], new: bool, by_row: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a checkpoint with scaled fp8 weights, and the numbers that these stand for in float32."""
    file: dict[str, Tensor] = {} if new else {f"{part}scaled_fp8": torch.empty(0).to(FP8[0]) for part in PARTS}
    meant = dict(state)
    for key, value in state.items():
        if not is_layer(key, value):
            file[key] = value
            continue
        axes = tuple(range(1, value.ndim)) if by_row else tuple(range(value.ndim))
        scale = value.abs().amax(axes, keepdim=True) / 448
        file[key] = (value / scale).to(FP8[0])
        meant[key] = file[key].float() * scale
        stem = key.removesuffix("weight")
        file[stem + ("weight_scale" if new else "scale_weight")] = scale.flatten() if by_row else scale.squeeze()
        file |= {stem + "comfy_quant": told(FORMAT)} if new else {stem + "scale_input": torch.tensor(0.5)}
    return file, meant


@pytest.mark.parametrize("new", [False, True], ids=["scale_weight", "weight_scale"])
@pytest.mark.parametrize("by_row", [False, True], ids=["one scale", "a scale for each row"])
def test_scaled_fp8_stays_fp8_and_computes_what_it_stands_for(
    new: bool, by_row: bool, tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    file, meant = quantised(state, new, by_row)
    save_file(file, tmp_path / "fp8.safetensors")
    save_file(meant, tmp_path / "full.safetensors")
    with caplog.at_level(logging.WARNING):
        model, clip, vae = sd.load_checkpoint(tmp_path / "fp8.safetensors", torch.float32)
    full_model, full_clip, full_vae = sd.load_checkpoint(tmp_path / "full.safetensors", torch.float32)
    assert caplog.text == ""
    held = model.model.diffusion_model.state_dict()
    assert all(value.dtype in FP8 for key, value in held.items() if is_layer(key, value))
    x, sigma, context = draw(1, 2, 4, 8, 8), torch.tensor([3.0, 1.0]), clip.encode("a red circle").repeat(2, 1, 1)
    assert torch.allclose(context[:1], full_clip.encode("a red circle"), atol=2e-3)  # of float16 weights
    outputs = [m.model.apply_model(x, sigma, c_crossattn=context) for m in (model, full_model)]
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-5)
    assert torch.allclose(vae.decode(x), full_vae.decode(x), atol=1e-5)


def test_patches_of_an_fp8_weight_change_the_number_that_it_stands_for(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    file, meant = quantised(state, True, False)
    save_file(file, tmp_path / "fp8.safetensors")
    model = sd.load_checkpoint(tmp_path / "fp8.safetensors", torch.float32)[0]
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    before, change = model.model.state_dict()[key].clone(), draw(2, *meant["model." + key].shape)
    clone = model.clone()
    clone.add_patches({key: (change,)}, 0.5)
    assert torch.equal(clone.get_key_patches(key)[key][0][0], meant["model." + key])
    clone.patch_model()
    patched = clone.model.state_dict()[key]
    assert patched.dtype == torch.float32
    assert torch.allclose(patched, meant["model." + key] + 0.5 * change, atol=1e-6)
    layer = clone.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.to_q
    assert torch.allclose(layer(change), change @ patched.T, atol=1e-4)
    assert torch.allclose(layer(change.half()).float(), change @ patched.T, atol=0.1)
    clone.unpatch_model()
    assert torch.equal(clone.model.state_dict()[key].view(torch.uint8), before.view(torch.uint8))


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("weight.quant_state.bitsandbytes__nf4", "nf4 of bitsandbytes"),
        ("weight.absmax", "4 bit of bitsandbytes"),
        ("SCB", "int8 of bitsandbytes"),
        ("qweight", "GPTQ or AWQ"),
        ("wscales", "SVDQuant of nunchaku"),
        ("weight._data", "optimum-quanto"),
        ("weight_scale_2", "nvfp4 of comfy-kitchen"),
        ("weight_s_rel", "asym_w4a8_int8 of comfy-kitchen"),
        ("weight_scale_inv", "scales of another kind"),
        ("comfy_quant", "int8_tensorwise of comfy-kitchen"),
    ],
)
def test_other_layouts_are_refused_by_name(extra: str, name: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    layer = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q."
    save_file({**state, layer + extra: told('{"format": "int8_tensorwise"}')}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=rf"a.safetensors: quantised as {name}.*run it in ComfyUI"):
        sd.load_checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=name):
        sd.load_vae(tmp_path / "a.safetensors")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', "\xff"])
def test_a_format_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a.weight": torch.ones(2, 2), "a.comfy_quant": told(text)}, path)
    with pytest.raises(CheckpointError, match="quantised as an unreadable format"), model_file(path):
        pass


def test_the_format_may_stand_in_the_metadata(tmp_path: Path) -> None:
    for kind, fits in (("float8_e5m2", True), ("nvfp4", False)):
        metadata = {"_quantization_metadata": json.dumps({"layers": {"a": {"format": kind}}})}
        save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors", metadata)
        if fits:
            with model_file(tmp_path / "a.safetensors") as file:
                assert list(file) == ["a.weight"]
        else:
            with pytest.raises(CheckpointError, match="nvfp4"), model_file(tmp_path / "a.safetensors"):
                pass


def test_integers_where_the_network_has_numbers_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    save_file({**state, key: torch.ones_like(state[key]).to(torch.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"to_q.weight holds torch.int8.*is it quantised"):
        sd.load_checkpoint(tmp_path / "a.safetensors")


def test_scales_of_blocks_and_scales_of_nothing_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    layer = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q."
    save_file({**state, layer + "weight_scale": torch.ones(7, 7)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="expected one scale, or one for each row"):
        sd.load_checkpoint(tmp_path / "a.safetensors")
    save_file({**state, "model.diffusion_model.nowhere.scale_weight": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"1 scales belong to no weight.*nowhere.scale_weight"):
        sd.load_unet(tmp_path / "a.safetensors")


def test_what_nothing_uses_is_told_in_one_line(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    extra = {f"model_ema.{i}": torch.ones(1) for i in range(5)} | {"model.diffusion_model.lost": torch.ones(1)}
    harmless = {"alphas_cumprod": torch.ones(1), "cond_stage_model.logit_scale": torch.ones(1)}
    save_file({**state, **extra, **harmless}, tmp_path / "a.safetensors")
    with caplog.at_level(logging.WARNING):
        sd.load_checkpoint(tmp_path / "a.safetensors")
        sd.load_unet(tmp_path / "a.safetensors")
        sd.load_vae(tmp_path / "a.safetensors")
    whole, unet = [record.getMessage() for record in caplog.records]
    assert f"nothing uses 6 of {len(state) + 8} tensors: model.diffusion_model.lost, model_ema.0," in whole
    assert "nothing uses 1 of" in unet and "model.diffusion_model.lost" in unet


def test_keys_that_were_read_are_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.safetensors")
    file = Checkpoint(tmp_path / "a.safetensors")
    assert file["a"] == 1
    report_unused(file)
    assert "1 of 2 tensors: b" in caplog.text
