"""Compare our UNet with ComfyUI's on the same weights: outputs, and what every hook is called with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.modules.ops import plain

from . import unet_child

pytestmark = pytest.mark.comfyui

SHARED = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False}
SD15 = {
    **SHARED,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 48,
    "num_heads": 8,
}
SDXL = {
    **SHARED,
    "model_channels": 64,
    "num_res_blocks": [1, 2],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 2, 3],
    "transformer_depth_middle": 3,
    "transformer_depth_output": [0, 0, 2, 2, 3],
    "context_dim": 64,
    "num_head_channels": 32,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 56,
}
KOALA = {**SDXL, "transformer_depth_middle": -2, "resblock_updown": True, "use_scale_shift_norm": True}
INPAINT = {**SD15, "in_channels": 9, "transformer_depth_middle": -1, "conv_resample": False}
VIDEO = {
    **SD15,
    "use_linear_in_transformer": True,
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "use_spatial_context": True,
    "extra_ff_mix_layer": True,
    "merge_strategy": "learned_with_images",
    "video_kernel_size": [3, 1, 1],
}
VIDEO_FIXED = {**VIDEO, "merge_strategy": "fixed", "merge_factor": 0.3}
VIDEO_LEARNED = {
    **VIDEO,
    "merge_strategy": "learned",
    "extra_ff_mix_layer": False,
    "video_kernel_size": 3,
    "num_heads": -1,
    "num_head_channels": 64,
    "num_classes": "sequential",
    "adm_in_channels": 56,
}
CASES = {
    "sd15": (SD15, False),
    "sd15 hooks": (SD15, True),
    "sdxl": (SDXL, False),
    "sdxl hooks": (SDXL, True),
    "koala": (KOALA, False),
    "inpaint": (INPAINT, False),
    "video": (VIDEO, False),
    "video hooks": (VIDEO, True),
    "video fixed": (VIDEO_FIXED, False),
    "video learned": (VIDEO_LEARNED, True),
}


def build(config: dict[str, Any]) -> UNetModel:
    """Build our UNet with random weights, norms included."""
    torch.manual_seed(0)
    unet = UNetModel(**config, operations=plain)
    for parameter in unet.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return unet


def job(config: dict[str, Any], hooks: bool) -> dict[str, Any]:
    """Describe one pass: weights, inputs of an odd size where that can work, controls."""
    unet = build(config)
    draw = torch.Generator().manual_seed(1)
    frames = 4

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    # averaging rounds an odd size down, convolution rounds it up as the way back expects
    averages = config.get("resblock_updown") or not config.get("conv_resample", True)
    height, low = (8, 4) if averages else (9, 5)
    skips = len(unet.input_blocks)
    inputs: dict[str, Any] = {
        "x": noise(frames, config["in_channels"], height, 12),
        "timesteps": torch.tensor([0.0, 3.0, 500.25, 999.0]),
        "context": noise(frames, 7, config["context_dim"]),
        "control": {
            "output": [noise(frames, 64, height, 12), *[None] * (skips - 2), noise(frames, 128, low, 6)],
            "middle": [noise(frames, 128, low, 6)],
            "input": [noise(1, 64, height, 12)],
        },
    }
    if unet.middle_block is None:
        # ComfyUI adds in place, and here the feature map and the last skip connection are one tensor
        inputs["control"] = {"output": [noise(frames, 64, height, 12), *[None] * (skips - 1)]}
    if "adm_in_channels" in config:
        inputs["y"] = noise(frames, config["adm_in_channels"])
    if config.get("use_temporal_attention"):
        inputs |= {"num_video_frames": 2, "image_only_indicator": torch.tensor([[0.0, 1.0], [0.0, 0.0]])}
    return {"config": config, "hooks": hooks, "state": unet.state_dict(), "inputs": inputs}


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict[str, Any]]:
    return {name: job(*case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def theirs(jobs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("unet")
    torch.save(list(jobs.values()), folder / "jobs.pt")
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), unet_child.__file__]
    command += [str(folder / "jobs.pt"), str(folder / "results.pt")]
    # not the checkout as working directory: nothing of ours may be importable there
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(jobs, torch.load(folder / "results.pt", weights_only=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_unet_equals_comfyui(name: str, jobs: dict[str, dict[str, Any]], theirs: dict[str, Any]) -> None:
    ours = unet_child.run(build(CASES[name][0]), jobs[name])
    error = (ours["out"] - theirs[name]["out"]).norm() / theirs[name]["out"].norm()
    assert error < 1e-5
    assert ours["calls"] == theirs[name]["calls"]
    assert bool(ours["calls"]) == CASES[name][1]
