"""Formulas, latents and pictures in files, and mixed models. Numbers: tests/contract."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.nodes.expression import evaluate
from attention_patchbay.headless.nodes.picture_formats import exr, levels, linear, png
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.sampling.model_sampling import discrete_sampling
from PIL import Image
from safetensors.torch import save_file

NODES = catalog()


def node(folder: Path, name: str, **inputs: Any) -> Any:
    with entered(Session(Folders(folder, folder / "input", folder / "output"))):
        return NODES[name].execute(**inputs)


@pytest.mark.parametrize(
    "formula",
    ["9**9**9", "1 << 10**9", "2**99999 * 2**99999", "pow(10, 10**9)", "(" * 5000 + "1", "-" * 9000 + "1", "a" * 10**6],
)
def test_a_formula_that_costs_too_much_is_refused(formula: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        evaluate(formula, {})


def test_a_formula_runs_nothing_but_arithmetic() -> None:
    for formula in (
        "().__class__",
        "__import__('os')",
        "open('x')",
        "[x for x in values]",
        "values.append(1)",
        "f'{1}'",
    ):
        with pytest.raises(ValueError, match="is not computed here"):
            evaluate(formula, {"values": [1]})


def test_latents_come_back_from_their_file(tmp_path: Path) -> None:
    latent = {"samples": torch.randn(2, 4, 5, 6)}
    answer = node(tmp_path, "SaveLatent", samples=latent, filename_prefix="latents/a")
    (entry,) = answer.ui["latents"]
    assert entry == {"filename": "a_00001_.latent", "subfolder": "latents", "type": "output"}
    (loaded,) = node(tmp_path, "LoadLatent", latent="latents/a_00001_.latent [output]").args
    assert torch.equal(loaded["samples"], latent["samples"])


def test_latents_of_before_there_was_a_version_are_scaled(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    save_file({"latent_tensor": torch.ones(1, 4, 2, 2)}, tmp_path / "input" / "old.latent")
    assert Folders(tmp_path, tmp_path / "input").latent_names() == ["old.latent"]
    (loaded,) = node(tmp_path, "LoadLatent", latent="old.latent").args
    torch.testing.assert_close(loaded["samples"], torch.full((1, 4, 2, 2), 1 / 0.18215))
    save_file({"other": torch.ones(1)}, tmp_path / "input" / "none.latent")
    with pytest.raises(CheckpointError, match="no latent found"):
        node(tmp_path, "LoadLatent", latent="none.latent")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_8_and_16_bits_holds_the_picture_and_its_workflow(channels: int) -> None:
    picture = torch.rand(5, 7, channels)
    small = Image.open(io.BytesIO(png(levels(picture, 8), {"prompt": "{}"})))
    assert small.text == {"prompt": "{}"}
    np.testing.assert_array_equal(np.asarray(small).reshape(5, 7, channels), levels(picture, 8))
    large = Image.open(io.BytesIO(png(levels(picture, 16), {})))
    found = np.asarray(large).reshape(5, 7, channels)  # Pillow keeps 16 bits of grey alone
    np.testing.assert_array_equal(found, levels(picture, 16) if channels == 1 else levels(picture, 16) >> 8)


def test_formats_are_written_by_the_node(tmp_path: Path) -> None:
    picture = torch.rand(2, 4, 5, 3)
    for how, ending in (({"format": "png", "bit_depth": "16-bit"}, "png"), ({"format": "exr"}, "exr")):
        answer = node(tmp_path, "SaveImageAdvanced", images=picture, filename_prefix="a/b", format=how)
        names = [entry["filename"] for entry in answer.ui["images"]]
        numbers = ("00001", "00002") if ending == "png" else ("00003", "00004")
        assert names == [f"b_{number}.{ending}" for number in numbers]
    data = (tmp_path / "output" / "a" / "b_00003.exr").read_bytes()
    assert data.startswith(b"\x76\x2f\x31\x01") and b"chromaticities" in data
    with pytest.raises(ValueError, match="2 channels"):
        node(
            tmp_path, "SaveImageAdvanced", images=torch.rand(1, 4, 5, 2), filename_prefix="a", format={"format": "exr"}
        )


def test_exr_holds_linear_light() -> None:
    picture = torch.rand(3, 4, 3)
    data = exr(linear(picture, "linear").numpy(), {}, "Rec. 709")
    lines = np.frombuffer(data[-3 * (8 + 4 * 4 * 3) :], np.uint8).reshape(3, -1)[:, 8:].copy().view("<f4")
    np.testing.assert_array_equal(lines.reshape(3, 3, 4)[:, ::-1].transpose(0, 2, 1), picture.numpy())


def test_a_config_tells_prediction_and_layer(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    text = (
        'model:\n  params:\n    parameterization: "v"\n    cond_stage_config:\n      params:\n        layer_idx: -2\n'
    )
    (tmp_path / "configs" / "a.yaml").write_text(text)
    names = {"config_name": "a.yaml", "ckpt_name": "patchbay_demo.safetensors"}
    model, clip, _ = node(tmp_path, "CheckpointLoader", **names).args
    assert type(model.get_model_object("model_sampling")) is type(discrete_sampling("v_prediction"))
    assert clip.layer_idx == -2


def test_text_encoders_are_mixed(tmp_path: Path) -> None:
    _, one, _ = load_checkpoint(CHECKPOINT)
    _, other, _ = load_checkpoint(CHECKPOINT)
    for parameter in other.cond_stage_model.parameters():
        parameter.mul_(1.1)
    prompt = "a red circle"
    first, second = one.encode(prompt), other.encode(prompt)
    for ratio, wanted in ((1.0, first), (0.0, second)):
        (mixed,) = node(tmp_path, "CLIPMergeSimple", clip1=one, clip2=other, ratio=ratio).args
        torch.testing.assert_close(mixed.encode(prompt), wanted)
    (both,) = node(tmp_path, "CLIPMergeAdd", clip1=one, clip2=other).args
    (back,) = node(tmp_path, "CLIPMergeSubtract", clip1=both, clip2=other, multiplier=1.0).args
    torch.testing.assert_close(back.encode(prompt), first, atol=1e-4, rtol=1e-4)
    assert torch.equal(one.encode(prompt), first)
