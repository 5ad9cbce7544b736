"""Compare what we read about sampling with what ComfyUI reads: every marker, family and prefix, both loaders."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.files.weights import Weights
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.loading.model_detection import UNET_PREFIXES
from attention_patchbay.ldm_patched.sampling.model_base import build_sampling
from attention_patchbay.ldm_patched.sampling.model_sampling import ContinuousEDM, ContinuousV, DiscreteV
from torch import Tensor

from . import markers_child
from .comfyui_server import python

pytestmark = pytest.mark.comfyui

DATA = Path(__file__).parents[1] / "data" / "state_dict_keys.json.gz"
UNETS = ("sd15", "sd15_inpaint", "sd21", "sdxl", "sdxl_refiner", "ssd1b", "koala_700m")
EMPTY = torch.empty(0)
MARKERS = {
    "v_pred": EMPTY,
    "ztsnr": EMPTY,
    "edm_mean": torch.zeros(1, 4, 1, 1),
    "edm_std": torch.ones(1, 4, 1, 1),
    "edm_vpred.sigma_max": torch.tensor(90.0),
    "edm_vpred.sigma_min": torch.tensor(0.01),
}
SETS = [(), *((name,) for name in MARKERS), ("v_pred", "ztsnr"), ("edm_mean", "edm_std")]
SETS += [("edm_vpred.sigma_max", "edm_vpred.sigma_min"), ("edm_vpred.sigma_max", "v_pred"), tuple(MARKERS)]
FULLY = ("sdxl", "sdxl_refiner", "sd15")  # the others with nothing, and with all of them
BIAS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
PREFIX = "model.diffusion_model."


class State(dict[str, Tensor]):
    """A state dict with the shapes that a file tells."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__(state)
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}


def unets() -> dict[str, dict[str, list[int]]]:
    with gzip.open(DATA, "rt") as file:
        facts = json.load(file)
    found = {name: facts[f"UNetModel_{name}"]["keys"] for name in UNETS}
    # ComfyUI tells SD2 inpainting and the editing models by their input alone
    first = "input_blocks.0.0.weight"
    return found | {
        "sd21_inpaint": {**found["sd21"], first: [320, 9, 3, 3]},
        "sdxl_inpaint": {**found["sdxl"], first: [320, 9, 3, 3]},
        "sdxl_edit": {**found["sdxl"], first: [320, 8, 3, 3]},
    }


def all_jobs() -> list[dict[str, Any]]:
    jobs = []
    places = [("checkpoint", PREFIX, ""), ("checkpoint", PREFIX, PREFIX), ("unet", PREFIX, "")]
    places += [("unet", PREFIX, PREFIX), ("unet", "", "")]
    for name, (loader, prefix, before) in product(unets(), places):
        wide = name.startswith("sd21")
        for chosen, spread in product(
            SETS if name in FULLY else (SETS[0], SETS[-1]), (0.0, 0.05, 0.3) if wide else (0.0,)
        ):
            markers = {before + marker: MARKERS[marker] for marker in chosen}
            bias = torch.randn(320, generator=torch.Generator().manual_seed(0)) * spread
            if name.startswith("sd") and not name.startswith("sdxl"):
                markers[prefix + BIAS] = bias
            jobs.append({"unet": name, "loader": loader, "prefix": prefix, "markers": markers})
    return jobs


def described(state: Weights, loader: str) -> dict[str, Any]:
    unet = sd.find_unet(state, UNET_PREFIXES[:2] if loader == "checkpoint" else UNET_PREFIXES)
    config = sd.config_of(unet, state if loader == "checkpoint" else unet)
    sampling = build_sampling(config)
    kinds = {ContinuousEDM: "EDM", ContinuousV: "V_PREDICTION_EDM", DiscreteV: "V_PREDICTION"}
    return {
        "kind": kinds.get(type(sampling), "EPS"),
        "ends": [float(sampling.sigmas[0]), float(sampling.sigmas[-1])],
        "sigma_data": float(sampling.sigma_data),
        "latent": config.latent_format.process_in(torch.ones(1, 4, 1, 1)).flatten().tolist(),
    }


def test_every_marker_is_read_as_comfyui_does(tmp_path: Path) -> None:
    shapes, jobs = unets(), all_jobs()
    torch.save({"unets": shapes, "jobs": jobs}, tmp_path / "jobs.pt")
    command = [python(), markers_child.__file__, str(tmp_path / "jobs.pt"), str(tmp_path / "result.json")]
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads((tmp_path / "result.json").read_text())
    empty = {name: {key: torch.empty(s, device="meta") for key, s in keys.items()} for name, keys in shapes.items()}
    for job, wanted in zip(jobs, theirs, strict=True):
        state = State({job["prefix"] + key: value for key, value in empty[job["unet"]].items()} | job["markers"])
        found = described(state, job["loader"])
        what = (job["unet"], job["loader"], job["prefix"], list(job["markers"]))
        assert found["kind"] == wanted["kind"], what
        for name in ("ends", "latent"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-5), (*what, name)
        assert found["sigma_data"] == wanted["sigma_data"], what
