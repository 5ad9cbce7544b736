"""Compare predictions from scaled fp8 files with ComfyUI's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading.sd import load_unet
from attention_patchbay.ldm_patched.modules.ops import plain
from safetensors.torch import save_file
from torch import Tensor

from ..unets import FLAT, draw
from . import quantized_child
from .comfyui_server import python

pytestmark = pytest.mark.comfyui

FP8 = torch.float8_e4m3fn
PREFIX = "model.diffusion_model."
# the smallest that ComfyUI takes for SD1
SD1 = FLAT | {"model_channels": 320, "context_dim": 768, "num_heads": 8}
FORMAT = list(json.dumps({"format": "float8_e4m3fn"}).encode())


def scaled(state: dict[str, Tensor], scale: str, mark: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with its linear layers in fp8, as ComfyUI's own scripts write them."""
    file = dict(mark)
    for key, value in state.items():
        if not key.endswith(".weight") or value.ndim != 2:
            file[key] = value.half()
            continue
        factor = value.abs().max() / 448
        file[key] = (value / factor).to(FP8)
        file[key.removesuffix("weight") + scale] = factor.float()
        if scale == "weight_scale":
            file[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(FORMAT, dtype=torch.uint8)
    return file


def files(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    state = UNetModel(**SD1, operations=plain).state_dict()
    old, new = (
        scaled(state, "scale_weight", {"scaled_fp8": torch.empty(0).to(FP8)}),
        scaled(state, "weight_scale", {}),
    )
    states = {
        "half": {key: value.half() for key, value in state.items()},
        "fp8": {key: value.to(FP8) if value.ndim > 1 else value.half() for key, value in state.items()},
        "scale_weight": old,
        "scale_weight with a prefix": {PREFIX + key: value for key, value in old.items()},
        "weight_scale": new,
    }
    paths = []
    for name, tensors in states.items():
        paths.append(folder / f"{name}.safetensors")
        save_file(tensors, paths[-1])
        inputs = {"x": draw(1, 2, 4, 8, 8) * 3, "sigma": torch.tensor([3.0, 0.5]), "context": draw(2, 2, 77, 768)}
        torch.save(inputs, f"{paths[-1]}.inputs")
    return paths


def test_predictions(tmp_path: Path) -> None:
    paths = files(tmp_path)
    (tmp_path / "files.json").write_text(json.dumps([str(path) for path in paths]))
    command = [python(), quantized_child.__file__, str(tmp_path / "files.json"), str(tmp_path / "result.pt")]
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[Any] = torch.load(tmp_path / "result.pt", weights_only=True)
    for path, theirs in zip(paths, results, strict=True):
        inputs = torch.load(f"{path}.inputs", weights_only=True)
        ours = load_unet(path, torch.float32).model.apply_model(
            inputs["x"], inputs["sigma"], c_crossattn=inputs["context"]
        )
        assert (ours - theirs).norm() / theirs.norm() < 1e-5, path.name
        assert path.name == "half.safetensors" or not torch.allclose(theirs, results[0], atol=1e-4)
