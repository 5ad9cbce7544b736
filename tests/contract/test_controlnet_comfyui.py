"""Compare latents steered by ControlNets with ComfyUI's, on the same weights, hints and seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.nodes import controlnet as controlnet_nodes
from attention_patchbay.ldm_patched.controlnet.cldm import ControlNet as ControlModel
from attention_patchbay.ldm_patched.controlnet.control import ControlNet
from attention_patchbay.ldm_patched.controlnet.union import UnionControlNet
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading.controlnet_loader import load_controlnet
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.latent_formats import SD15, SDXL
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig
from attention_patchbay.ldm_patched.sampling.sample import prepare_noise
from attention_patchbay.ldm_patched.sampling.samplers import sample
from safetensors.torch import save_file
from torch import Tensor

from ..unets import UNET as SMALL
from ..unets import draw
from . import controlnet_child

pytestmark = pytest.mark.comfyui

BOUND = 1e-3
UNET = SMALL | {"transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "num_heads": 8}
VECTOR = {"num_classes": "sequential", "adm_in_channels": 2816, "model_channels": 64, "use_linear_in_transformer": True}
VECTOR |= {"num_heads": -1, "num_head_channels": 64}
WIDE = {"model_channels": 320, "channel_mult": [1], "num_res_blocks": [1], "context_dim": 768}
WIDE |= {"transformer_depth": [1], "transformer_depth_output": [1, 1]}
UNETS = {"sd1": UNET, "sdxl": UNET | VECTOR, "wide": UNET | WIDE}
FAMILIES = {"sd1": "SD15", "sdxl": "SDXL", "wide": "SD15"}
CONTROLS: dict[str, dict[str, Any]] = {
    "first": {"seed": 11},
    "second": {"seed": 12},
    "pooled": {"seed": 13, "pooling": True},
    "union": {"seed": 14, "unet": "wide", "more": {"union_controlnet_num_control_type": 8}},
    "vector": {"seed": 15, "unet": "sdxl"},
}


def hint(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def use(control: str = "first", **changes: Any) -> dict[str, Any]:
    entry = {"control": control, "hint": hint(1, 1, 128, 128, 3), "strength": 0.7, "window": (0.1, 0.8)} | changes
    return {key: value for key, value in entry.items() if value is not None}


def prompt(seed: int, width: int = 16, **entries: Any) -> list[Any]:
    return [draw(seed, 1, 7, width), entries]


def case(*uses: dict[str, Any], model: str = "sd1", batch: int = 1, **changes: Any) -> dict[str, Any]:
    width = UNETS[model]["context_dim"]
    pooled = {"pooled_output": draw(6, 1, 1280)} if model == "sdxl" else {}
    entry = {
        "model": model,
        "uses": list(uses),
        "steps": 20,
        "cfg": 4.0,
        "seed": 3,
        "positive": [prompt(1, width, **pooled)],
        "negative": [prompt(2, width, **pooled)],
        "latent": torch.zeros(batch, 4, 16, 16),
    }
    return entry | changes


CASES = {
    "strength and window": case(use()),
    "the whole run": case(use(strength=1.0, window=(0.0, 1.0))),
    "two in a chain": case(use(), use("second", hint=hint(2, 1, 128, 128, 3), strength=1.3, window=(0.3, 1.0))),
    "one twice in a chain": case(use(), use(strength=0.4, window=(0.5, 0.9))),
    "through the old node": case(use(window=None)),
    "the old node behind the new one": case(use(), use("second", window=None)),
    "cfg 1": case(use(), cfg=1.0),
    "a wide hint": case(use(hint=hint(3, 1, 90, 200, 3))),
    "a small high hint": case(use(hint=hint(3, 1, 70, 33, 3))),
    "a hint for each latent": case(use(hint=hint(4, 2, 128, 128, 3)), batch=2),
    "fewer hints than latents": case(use(hint=hint(4, 2, 128, 128, 3)), batch=3),
    "more hints than latents": case(use(hint=hint(4, 3, 128, 128, 3)), batch=2),
    "prompts that do not join": case(use(hint=hint(4, 2, 128, 128, 3)), batch=2, negative=[[draw(2, 1, 37, 16), {}]]),
    "an area": case(use(), positive=[prompt(1), prompt(5, area=(8, 12, 4, 2), strength=0.8)]),
    "global average pooling": case(use("pooled")),
    "union": case(use("union", type="canny/lineart/anime_lineart/mlsd"), model="wide", steps=6),
    "union auto": case(use("union", type="auto"), model="wide", steps=6),
    "a vector model": case(use("vector"), model="sdxl"),
    "a file": case(use("file"), model="wide", steps=6),
    "a file that ends in _shuffle": case(use("file_shuffle"), model="wide", steps=6),
}


def build(name: str) -> UNetModel:
    torch.manual_seed(0)
    return UNetModel(**UNETS[name], operations=plain)


def control_config(unet: str = "sd1", more: dict[str, Any] | None = None) -> dict[str, Any]:
    left_out = ("out_channels", "transformer_depth_output")
    config = {key: value for key, value in UNETS[unet].items() if key not in left_out}
    return {**config, "hint_channels": 3, **(more or {})}


def control_state(seed: int, config: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    network = UnionControlNet if "union_controlnet_num_control_type" in config else ControlModel
    model = network(**config, operations=plain)
    for name, parameter in model.named_parameters():
        if name.startswith(("zero_convs", "middle_block_out")) or name == "task_embedding":
            parameter.data = torch.randn_like(parameter) * 0.2
        elif name.startswith("input_hint_block") and parameter.ndim == 4:  # so that the hint counts
            parameter.data = torch.randn_like(parameter) * 2 / parameter[0].numel() ** 0.5
    return model.state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two ControlNet files of SD1's width in the LDM layout."""
    folder = tmp_path_factory.mktemp("controlnet")
    state = control_state(16, control_config("wide"))
    for name in ("file", "file_shuffle"):
        halves = {f"control_model.{key}": value.half().contiguous() for key, value in state.items()}
        save_file(halves, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def jobs(folder: Path) -> dict[str, Any]:
    controls: dict[str, Any] = {}
    for name, made in CONTROLS.items():
        config = control_config(made.get("unet", "sd1"), made.get("more"))
        state, pooling = control_state(made["seed"], config), made.get("pooling", False)
        controls[name] = {"config": config, "state": state, "global_average_pooling": pooling}
    for name in ("file", "file_shuffle"):
        controls[name] = str(folder / f"{name}.safetensors")
    models = {
        name: {"family": FAMILIES[name], "unet": unet, "state": build(name).state_dict()}
        for name, unet in UNETS.items()
    }
    return {"models": models, "controls": controls, "cases": CASES}


@pytest.fixture(scope="module")
def theirs(folder: Path, jobs: dict[str, Any]) -> dict[str, Tensor]:
    torch.save(jobs, folder / "job.pt")
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), controlnet_child.__file__]
    command += [str(folder / "job.pt"), str(folder / "result.pt")]
    # not the checkout as working directory: nothing of ours may be importable there
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def patchers() -> dict[str, ModelPatcher]:
    made = {}
    for name, unet in UNETS.items():
        family = "sdxl" if name == "sdxl" else "sd1"
        config = ModelConfig(family, unet, latent_format=SDXL() if family == "sdxl" else SD15())
        model = MODEL_CLASSES[family](config)
        model.diffusion_model.load_state_dict(build(name).state_dict())
        made[name] = ModelPatcher(model, "cpu", "cpu")
    return made


@pytest.fixture(scope="module")
def controls(jobs: dict[str, Any]) -> dict[str, ControlNet]:
    return {name: loaded(entry) for name, entry in jobs["controls"].items()}


def loaded(entry: Any) -> ControlNet:
    if isinstance(entry, str):
        return load_controlnet(entry, torch.float32)
    network = UnionControlNet if "union_controlnet_num_control_type" in entry["config"] else ControlModel
    model = network(**entry["config"], dtype=torch.float32).requires_grad_(False)
    model.load_state_dict(entry["state"])
    return ControlNet(ModelPatcher(model, "cpu", "cpu"), entry["global_average_pooling"])


def steered(case: dict[str, Any], controls: dict[str, ControlNet]) -> tuple[Any, Any]:
    """Return both conditionings of a case with its ControlNets on them."""
    positive, negative = case["positive"], case["negative"]
    for use in case["uses"]:
        control = controls[use["control"]]
        if "type" in use:
            (control,) = controlnet_nodes.SetUnionControlNetType.execute(control, use["type"]).args
        if "window" in use:
            apply = controlnet_nodes.ControlNetApplyAdvanced.execute
            arguments = (positive, negative, control, use["hint"], use["strength"], *use["window"])
            positive, negative = apply(*arguments).args
        else:
            apply_old = controlnet_nodes.ControlNetApply.execute
            (positive,) = apply_old(positive, control, use["hint"], use["strength"]).args
    return positive, negative


def sampled(case: dict[str, Any], patchers: dict[str, ModelPatcher], conditionings: tuple[Any, Any]) -> Tensor:
    noise = prepare_noise(case["latent"], case["seed"])
    how = (case["cfg"], case["steps"], "euler", "normal")
    model = patchers[case["model"]]
    return sample(model, noise, *conditionings, *how, seed=case["seed"], latent_image=case["latent"])


@pytest.mark.parametrize("name", CASES)
def test_steered_latents_equal_comfyuis(
    name: str,
    patchers: dict[str, ModelPatcher],
    controls: dict[str, ControlNet],
    theirs: dict[str, Tensor],
) -> None:
    case = CASES[name]
    ours = sampled(case, patchers, steered(case, controls))
    assert (ours - theirs[name]).abs().max() < BOUND
    free = sampled(case, patchers, (case["positive"], case["negative"]))
    assert (ours - free).abs().max() > 100 * BOUND


@pytest.mark.parametrize("name", ["strength and window", "union", "a vector model", "global average pooling", "a file"])
def test_the_hint_of_a_case_counts(
    name: str, patchers: dict[str, ModelPatcher], controls: dict[str, ControlNet], theirs: dict[str, Tensor]
) -> None:
    case = CASES[name]
    other = case | {"uses": [use | {"hint": use["hint"].flip(2)} for use in case["uses"]]}
    assert (sampled(other, patchers, steered(other, controls)) - theirs[name]).abs().max() > 100 * BOUND
