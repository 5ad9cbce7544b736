"""Compare the weights that LoRA files make, and the names that are found in them, with ComfyUI's."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.files.lora import clip_names, load_lora, unet_names
from attention_patchbay.ldm_patched.loading.model_detection import detect_unet
from attention_patchbay.ldm_patched.modules.weight_patches import WeightPatch, calculate_weight
from torch import Tensor

from ..unets import draw
from . import lora_child
from .comfyui_server import python

pytestmark = pytest.mark.comfyui

DATA = Path(__file__).parents[1] / "data" / "state_dict_keys.json.gz"
SHAPES = {"q.weight": (32, 32), "k.weight": (32, 24), "c.weight": (32, 16, 3, 3), "n.weight": (32,), "n.bias": (32,)}
NAMES = {name: f"{name[-1]}.weight" for name in ("lora_unet_q", "lora_unet_k", "lora_unet_c", "lora_unet_n", "unet.q")}
CORES = {"hada_t1": (4, 4, 3, 3), "hada_t2": (4, 4, 3, 3)}
UP_DOWN = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 24)}
SQUARE = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 32)}
CONV = {"lora_up.weight": (32, 4, 1, 1), "lora_down.weight": (4, 16, 3, 3)}
HADA = {"hada_w1_a": (32, 4), "hada_w1_b": (4, 24), "hada_w2_a": (32, 4), "hada_w2_b": (4, 24)}
GLORA = {"a1.weight": (24, 4), "a2.weight": (4, 24), "b1.weight": (32, 4), "b2.weight": (4, 24)}
# No LoKr with a core: torch.kron refuses what ComfyUI gives it, which is logged, and the weight stays as it was
# {case: {the letter of its weight: shapes of the entries}}
FILES: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "lora": {"k": UP_DOWN},
    "mochi": {"k": {"lora_B": (32, 4), "lora_A": (4, 24)}},
    "transformers": {"k": {"lora_linear_layer.up.weight": (32, 4), "lora_linear_layer.down.weight": (4, 24)}},
    "locon": {"c": CONV},
    "locon of a linear layer": {"c": {"lora_up.weight": (32, 4), "lora_down.weight": (4, 144)}},
    "locon with a middle": {
        "c": {"lora_up.weight": (32, 4, 1, 1), "lora_down.weight": (4, 16, 1, 1), "lora_mid.weight": (4, 4, 3, 3)}
    },
    "dora": {"k": {**UP_DOWN, "dora_scale": (32, 1)}},
    "dora on columns": {"k": {**UP_DOWN, "dora_scale": (1, 24)}},
    "dora of a square": {"q": {**SQUARE, "dora_scale": (32, 1)}},
    "dora of a square on columns": {"q": {**SQUARE, "dora_scale": (1, 32)}},
    "dora of a convolution": {"c": {**CONV, "dora_scale": (32, 1, 1, 1)}},
    "dora of a convolution on columns": {"c": {**CONV, "dora_scale": (1, 16, 1, 1)}},
    "loha": {"k": HADA},
    "loha with dora": {"k": {**HADA, "dora_scale": (32, 1)}},
    "loha with cores": {
        "c": {"hada_w1_a": (4, 32), "hada_w1_b": (4, 16), "hada_w2_a": (4, 32), "hada_w2_b": (4, 16), **CORES}
    },
    "lokr": {"k": {"lokr_w1": (4, 4), "lokr_w2": (8, 6)}},
    "lokr in products": {"k": {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4), "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 6)}},
    "lokr of a convolution": {"c": {"lokr_w1": (4, 4), "lokr_w2": (8, 4, 3, 3)}},
    "lokr of a convolution in products": {"c": {"lokr_w1": (4, 4), "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 36)}},
    "lokr with dora": {"k": {"lokr_w1": (4, 4), "lokr_w2": (8, 6), "dora_scale": (32, 1)}},
    "glora": {"k": GLORA},
    "glora with dora": {"k": {**GLORA, "dora_scale": (32, 1)}},
    "early glora": {"k": {"a1.weight": (4, 24), "a2.weight": (24, 4), "b1.weight": (4, 24), "b2.weight": (32, 4)}},
    "glora of a square": {
        "q": {"a1.weight": (32, 4), "a2.weight": (4, 32), "b1.weight": (32, 4), "b2.weight": (4, 32)}
    },
    "glora of a convolution": {
        "c": {"a1.weight": (16, 4), "a2.weight": (4, 16), "b1.weight": (32, 4), "b2.weight": (4, 144)}
    },
    "oft": {"k": {"oft_blocks": (4, 8, 8)}},
    "oft of a convolution": {"c": {"oft_blocks": (4, 8, 8)}},
    "boft": {"k": {"oft_blocks": (3, 8, 4, 4)}},
    "boft of a convolution": {"c": {"oft_blocks": (3, 8, 4, 4)}},
    "boft with factors": {"k": {"oft_blocks": (2, 16, 2, 2), "rescale": (32, 1)}},
    "norms": {"n": {"w_norm": (32,), "b_norm": (32,)}},
    "differences": {"k": {"diff": (32, 24)}, "n": {"diff_b": (32,)}},
    "whole weight": {"q": {"set_weight": (32, 32)}},
    "mixed": {"q": SQUARE, "k": HADA, "c": {"lokr_w1": (4, 4), "lokr_w2": (8, 4, 3, 3)}},
    "two kinds for one weight": {"k": {**UP_DOWN, **HADA}},
}


def job(name: str, alpha: float | None, strength: float) -> dict[str, Any]:
    file: dict[str, Tensor] = {}
    for letter, shapes in FILES[name].items():
        stem = f"lora_unet_{letter}"
        for i, (end, shape) in enumerate(shapes.items()):
            value = draw(i + 1, *shape) * (0.05 if end == "oft_blocks" else 0.3)
            file[f"{stem}.{end}"] = value.abs() if end == "dora_scale" else value
        if alpha is not None:
            file[f"{stem}.alpha"] = torch.tensor(alpha)
    weights = {key: draw(9, *shape) * 0.3 for key, shape in SHAPES.items()}
    return {"file": file, "names": NAMES, "weights": weights, "strength": strength}


def all_jobs() -> dict[str, dict[str, Any]]:
    jobs = {}
    for name in FILES:
        for alpha, strength in ((2.0, 1.0), (0.5, 0.7), (None, -0.4)):
            # without alpha ComfyUI's BOFT ends in an error that it logs
            if not (name.startswith("boft") and alpha is None):
                jobs[f"{name}, alpha {alpha}, strength {strength}"] = job(name, alpha, strength)
    grown = job("lora", 2.0, 1.0)
    grown["file"] |= {"lora_unet_k.reshape_weight": torch.tensor([40, 30])}
    grown["file"] |= {"lora_unet_k.lora_up.weight": draw(1, 40, 4), "lora_unet_k.lora_down.weight": draw(2, 4, 30)}
    return {**jobs, "reshape": grown}


JOBS = all_jobs()


def clips() -> list[list[str]]:
    """Return the keys of CLIP-L, H, G, and L with G."""
    layers = ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    ends = [f"encoder.layers.{i}.{layer}.{end}" for i in range(2) for layer in layers for end in ("weight", "bias")]
    models = {name: [f"clip_{name}.transformer.text_model.{end}" for end in ends] for name in "lhg"}
    low, high, big = (keys + [f"clip_{name}.transformer.text_projection.weight"] for name, keys in models.items())
    return [low, high, big, low + big]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("lora")
    with gzip.open(DATA, "rt") as file:
        facts = json.load(file)
    shapes = [{k: tuple(s) for k, s in facts[f"UNetModel_{name}"]["keys"].items()} for name in ("sd15", "sdxl")]
    unets = [{"keys": [f"diffusion_model.{key}" for key in found], "config": config(found)} for found in shapes]
    torch.save({"jobs": list(JOBS.values()), "unets": unets, "clips": clips()}, folder / "jobs.pt")
    command = [python(), lora_child.__file__, str(folder / "jobs.pt"), str(folder / "result.pt")]
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {**torch.load(folder / "result.pt", weights_only=True), "keys": [unet["keys"] for unet in unets]}


def config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what ComfyUI's own names are made from."""
    found = detect_unet(shapes)
    names = (
        "num_res_blocks",
        "channel_mult",
        "transformer_depth",
        "transformer_depth_output",
        "transformer_depth_middle",
    )
    return {name: found[name] for name in names}


@pytest.mark.parametrize("name", JOBS)
def test_the_weights(name: str, theirs: dict[str, Any]) -> None:
    job, wanted = JOBS[name], theirs["applied"][list(JOBS).index(name)]
    patches, unused = load_lora(job["file"], NAMES)
    assert bool(unused) == bool(wanted["skipped"]), wanted["skipped"]
    assert patches.keys() == wanted["weights"].keys()
    for key, patch in patches.items():
        got = calculate_weight([WeightPatch(job["strength"], patch)], job["weights"][key], key)
        assert got.shape == wanted["weights"][key].shape
        assert (got - wanted["weights"][key]).abs().max() < 1e-6, key


@pytest.mark.parametrize("index", [0, 1], ids=["sd15", "sdxl"])
def test_names_of_unets(index: int, theirs: dict[str, Any]) -> None:
    keys = theirs["keys"][index]
    wanted = {name: key for name, key in theirs["unets"][index].items() if key in keys}  # it names more than there is
    assert len(wanted) > 2000 and wanted.items() <= unet_names(keys).items()


@pytest.mark.parametrize("index", range(4), ids=["l", "h", "g", "l and g"])
def test_names_of_text_encoders(index: int, theirs: dict[str, Any]) -> None:
    assert theirs["clips"][index].items() <= clip_names(clips()[index]).items()
