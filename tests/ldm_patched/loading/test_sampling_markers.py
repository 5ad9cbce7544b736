"""What a file marks about its sampling, through the loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading.sd import load_unet
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.latent_formats import SDXL, SDXLPlayground25
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig, build_sampling
from attention_patchbay.ldm_patched.sampling.model_sampling import (
    ContinuousEDM,
    ContinuousV,
    DiscreteEPS,
    DiscreteV,
)
from safetensors.torch import save_file
from torch import Tensor

from ..tiny import UNET, draw

EMPTY = torch.empty(0)
ENDS = {"edm_vpred.sigma_max": torch.tensor(80.0), "edm_vpred.sigma_min": torch.tensor(0.01)}
PLAYGROUND = {"edm_mean": torch.zeros(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}
TABLE: dict[str, tuple[dict[str, Tensor], type, dict[str, Any]]] = {
    "nothing": ({}, DiscreteEPS, {"zsnr": False}),
    "v_pred": ({"v_pred": EMPTY}, DiscreteV, {"zsnr": False}),
    "v_pred and ztsnr": ({"v_pred": EMPTY, "ztsnr": EMPTY}, DiscreteV, {"zsnr": True}),
    "ztsnr alone": ({"ztsnr": EMPTY}, DiscreteEPS, {"zsnr": False}),
    "sigma_max": ({"edm_vpred.sigma_max": torch.tensor(120.0)}, ContinuousV, {"sigma_max": 120.0, "sigma_min": 0.002}),
    "both ends": ({**ENDS, "v_pred": EMPTY}, ContinuousV, {"sigma_max": 80.0, "sigma_min": 0.01, "sigma_data": 1.0}),
    "sigma_min alone": ({"edm_vpred.sigma_min": torch.tensor(0.01)}, DiscreteEPS, {}),
    "mean and std": ({**PLAYGROUND, **ENDS}, ContinuousEDM, {"sigma_max": 80.0, "sigma_min": 0.002, "sigma_data": 0.5}),
    "mean alone": ({"edm_mean": EMPTY}, DiscreteEPS, {}),
}


@pytest.fixture(scope="module")
def unet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return UNetModel(**UNET | {"num_classes": "sequential", "adm_in_channels": 2816}, operations=plain).state_dict()


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str, unet: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    markers, kind, values = TABLE[name]
    save_file({**unet, **markers}, tmp_path / "a.safetensors")
    model = load_unet(tmp_path / "a.safetensors").model
    assert type(model.model_sampling) is kind
    for key, value in values.items():
        assert float(getattr(model.model_sampling, key)) == pytest.approx(float(value))
    assert type(model.latent_format) is (SDXLPlayground25 if kind is ContinuousEDM else SDXL)
    assert caplog.text == ""


def test_a_prefixed_file_marks_it_below_the_prefix(unet: dict[str, Tensor], tmp_path: Path) -> None:
    inside = {f"model.diffusion_model.{key}": value for key, value in {**unet, "v_pred": EMPTY}.items()}
    outside = {f"model.diffusion_model.{key}": value for key, value in unet.items()} | {"v_pred": EMPTY}
    for file, kind in ((inside, DiscreteV), (outside, DiscreteEPS)):
        save_file(file, tmp_path / "a.safetensors")
        assert type(load_unet(tmp_path / "a.safetensors").model.model_sampling) is kind


def test_edm_prediction_by_the_formula() -> None:
    sampling = build_sampling(ModelConfig("sdxl", {}, "edm", continuous={"sigma_data": 0.5}))
    sigma, output, x = torch.tensor([0.3, 40.0]), draw(1, 2, 4, 3, 3), draw(2, 2, 4, 3, 3)
    s = sigma.double().view(2, 1, 1, 1)
    skip, scale = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt()
    wanted = skip * x.double() + scale * output.double()
    assert (sampling.calculate_denoised(sigma, output, x).double() - wanted).abs().max() < 1e-5
    assert torch.allclose(sampling.calculate_input(sigma, x), x / (sigma**2 + 0.25).sqrt().view(2, 1, 1, 1))


def test_playgrounds_latents_there_and_back() -> None:
    latent, form = draw(3, 2, 4, 5, 5), SDXLPlayground25()
    assert torch.allclose(form.process_in(latent)[:, 1], (latent[:, 1] - 1.886) * 0.5 / 5.9022)
    assert torch.allclose(form.process_out(form.process_in(latent)), latent, atol=1e-5)


@pytest.mark.parametrize(("continuous", "factor"), [(None, 1.0), ({"sigma_max": 120.0}, 0.13025)])
def test_the_image_that_cosxl_edits_is_scaled(continuous: dict[str, float] | None, factor: float) -> None:
    small = UNET | {"in_channels": 8, "num_classes": "sequential", "adm_in_channels": 2816}
    config = ModelConfig("sdxl", small, "v_prediction", continuous=continuous, latent_format=SDXL(), concat="ip2p")
    model, image = MODEL_CLASSES["sdxl"](config, device="meta"), draw(4, 1, 4, 8, 8)
    concat = model.concat_cond(concat_latent_image=image, noise=torch.zeros(1, 4, 8, 8), device="cpu")
    assert concat is not None and torch.allclose(concat, image * factor)
