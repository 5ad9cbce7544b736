"""Compare latents with ComfyUI's on the same weights and seeds: every sampler, every schedule, every kind of input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.model_base import BaseModel, ModelConfig
from attention_patchbay.ldm_patched.sampling.model_sampling import discrete_sampling
from attention_patchbay.ldm_patched.sampling.sample import prepare_noise
from attention_patchbay.ldm_patched.sampling.samplers import SAMPLER_NAMES, SCHEDULER_NAMES, sample

from ..unets import FLAT, draw
from . import sampling_child

pytestmark = pytest.mark.comfyui

BOUND = 1e-3
# The first steps of this schedule are so short that the differences ComfyUI's solvers take in float32 lose most digits;
# the latents of this model reach 100.
BOUNDS = {"dpmpp_sde linear_quadratic": 0.01, "uni_pc linear_quadratic": 0.1, "uni_pc_bh2 linear_quadratic": 0.1}
UNET = FLAT | {"transformer_depth_middle": -1, "transformer_depth_output": [0, 1], "num_heads": 8}


def base(**changes: Any) -> dict[str, Any]:
    case = {
        "steps": 20,
        "cfg": 4.0,
        "sampler": "euler",
        "scheduler": "normal",
        "seed": 3,
        "positive": [[draw(1, 1, 7, 16), {}]],
        "negative": [[draw(2, 1, 7, 16), {}]],
        "latent": torch.zeros(1, 4, 8, 8),
        "in_channels": 4,
    }
    return case | changes


def half_mask() -> torch.Tensor:
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 12:] = 1
    return mask


def two(first: dict[str, Any], second: dict[str, Any]) -> list[list[Any]]:
    return [[draw(1, 1, 7, 16), first], [draw(5, 1, 7, 16), second]]


GRID = {f"{a} {b}": base(sampler=a, scheduler=b, cfg=2.0) for a in SAMPLER_NAMES for b in SCHEDULER_NAMES}
CASES = {
    "batch": base(latent=torch.zeros(3, 4, 8, 8)),
    "batch index": base(latent=torch.zeros(2, 4, 8, 8), batch_index=[4, 1]),
    "cfg 1": base(cfg=1.0),
    "context lengths": base(positive=[[draw(1, 1, 14, 16), {}]]),
    "context lengths that do not join": base(positive=[[draw(1, 1, 13, 16), {}]]),
    "image to image": base(latent=draw(9, 1, 4, 8, 8), denoise=0.4),
    "image to image dpm_2": base(latent=draw(9, 1, 4, 8, 8), denoise=0.4, sampler="dpm_2"),
    "first steps": base(last_step=12),
    "first steps denoised": base(last_step=12, force_full_denoise=True),
    "last steps": base(latent=draw(9, 1, 4, 8, 8), start_step=12),
    "noise mask": base(latent=draw(9, 2, 4, 8, 8), noise_mask=half_mask()),
    "noise mask ddim": base(latent=draw(9, 1, 4, 8, 8), noise_mask=half_mask(), sampler="ddim", denoise=0.7),
    "area": base(positive=two({}, {"area": (4, 6, 2, 0), "strength": 0.7})),
    "area of the whole": base(positive=two({"area": (8, 4, 0, 0)}, {"area": (8, 6, 0, 2)})),
    "area percentage": base(positive=two({}, {"area": ("percentage", 0.5, 0.7, 0.3, 0.0)})),
    "mask": base(positive=two({"mask": half_mask(), "mask_strength": 0.8}, {"mask": 1 - half_mask()})),
    "mask bounds": base(positive=two({"mask": half_mask(), "set_area_to_bounds": True}, {})),
    "time windows": base(
        positive=two({"start_percent": 0.0, "end_percent": 0.4}, {"start_percent": 0.4, "end_percent": 1.0})
    ),
    "combined": base(positive=two({}, {"strength": 0.3})),
    "v prediction": base(sampling=("v_prediction", False)),
    "zero terminal snr": base(sampling=("v_prediction", True)),
    "zero terminal snr ddim_uniform": base(sampling=("v_prediction", True), scheduler="ddim_uniform"),
    "x0": base(sampling=("x0", False)),
    "lcm": base(sampling=("lcm", False), sampler="lcm", scheduler="sgm_uniform", steps=4, cfg=1.5),
    "lcm normal": base(sampling=("lcm", False), sampler="lcm", steps=8, cfg=1.5),
    "inpaint model without a picture": base(in_channels=9),
    "inpaint model with a mask": base(in_channels=9, latent=draw(9, 2, 4, 8, 8), noise_mask=half_mask()),
    "inpaint model with its own picture": base(
        in_channels=9,
        latent=draw(9, 1, 4, 8, 8),
        positive=two({"concat_latent_image": draw(8, 1, 4, 6, 12), "concat_mask": half_mask()[None]}, {}),
        noise_mask=half_mask(),
    ),
    **{f"{name} in 2 steps": base(sampler=name, scheduler="sgm_uniform", steps=2) for name in SAMPLER_NAMES},
}
JOBS = GRID | CASES


def unet(in_channels: int) -> dict[str, Any]:
    return UNET | {"in_channels": in_channels}


def build(in_channels: int) -> UNetModel:
    torch.manual_seed(0)
    return UNetModel(**unet(in_channels), operations=plain)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("sampling")
    models = {channels: {"unet": unet(channels), "state": build(channels).state_dict()} for channels in (4, 9)}
    torch.save({"models": models, "cases": JOBS}, folder / "job.pt")
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), sampling_child.__file__]
    command += [str(folder / "job.pt"), str(folder / "result.pt")]
    # not the checkout as working directory: nothing of ours may be importable there
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def patchers() -> dict[int, ModelPatcher]:
    made = {}
    for channels, concat in ((4, None), (9, "inpaint")):
        model = BaseModel(ModelConfig("sd1", unet(channels), concat=concat))
        model.diffusion_model.load_state_dict(build(channels).state_dict())
        made[channels] = ModelPatcher(model, "cpu", "cpu")
    return made


@pytest.mark.parametrize("name", JOBS)
def test_latents_equal_comfyui(name: str, patchers: dict[int, ModelPatcher], theirs: dict[str, torch.Tensor]) -> None:
    case = JOBS[name]
    patcher = chosen = patchers[case["in_channels"]]
    if "sampling" in case:
        chosen = patcher.clone()
        chosen.add_object_patch("model_sampling", discrete_sampling(*case["sampling"]))
    names = ("denoise", "start_step", "last_step", "force_full_denoise", "noise_mask")
    ours = sample(
        chosen,
        prepare_noise(case["latent"], case["seed"], case.get("batch_index")),
        case["positive"],
        case["negative"],
        case["cfg"],
        case["steps"],
        case["sampler"],
        case["scheduler"],
        seed=case["seed"],
        latent_image=case["latent"],
        **{key: case[key] for key in names if key in case},
    )
    assert (ours - theirs[name]).abs().max() < BOUNDS.get(name, BOUND)
    assert theirs[name].abs().max() > 0.1
