"""The import paths that other packs know of this library: each has its names, and is the one module that runs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

PACK = "attention_patchbay.ldm_patched"
DOORS = {  # the known name, the module it leads to, and some of what is looked for in it
    "modules.clip_model": ("text.clip_model", "CLIPTextModel"),
    "modules.conds": ("sampling.conds", "CONDRegular CONDCrossAttn CONDNoiseShape CONDConstant"),
    "modules.controlnet": ("controlnet.control", "ControlNet"),
    "modules.latent_formats": ("sampling.latent_formats", "LatentFormat SD15 SDXL"),
    "modules.lora": ("files.lora", "load_lora"),
    "modules.model_base": ("sampling.model_base", "BaseModel SDXL SDXLRefiner"),
    "modules.model_sampling": ("sampling.model_sampling", "EPS V_PREDICTION ModelSamplingDiscrete"),
    "modules.sample": ("sampling.sample", "prepare_noise fix_empty_latent_channels"),
    "modules.samplers": ("sampling.samplers", "sampling_function calc_cond_batch cfg_function CFGGuider KSampler"),
    "modules.sd": ("loading.sd", "CLIP VAE load_checkpoint"),
}
PLACES = {
    "controlnet.cldm": "ControlNet",
    "ldm.models.autoencoder": "AutoencoderKL",
    "ldm.modules.attention": "optimized_attention CrossAttention FeedForward BasicTransformerBlock SpatialTransformer",
    "ldm.modules.diffusionmodules.model": "Encoder Decoder ResnetBlock AttnBlock",
    "ldm.modules.diffusionmodules.openaimodel": "UNetModel ResBlock TimestepEmbedSequential",
    "ldm.modules.diffusionmodules.util": "timestep_embedding make_beta_schedule",
    "ldm.modules.sub_quadratic_attention": "efficient_dot_product_attention",
    "modules.model_management": "get_torch_device throw_exception_if_processing_interrupted",
    "modules.model_patcher": "ModelPatcher",
    "modules.ops": "disable_weight_init manual_cast",
}


def module(path: str) -> ModuleType:
    return importlib.import_module(f"{PACK}.{path}")


@pytest.mark.parametrize(("path", "names"), [*PLACES.items(), *((path, names) for path, (_, names) in DOORS.items())])
def test_a_known_path_has_its_names(path: str, names: str) -> None:
    assert [name for name in names.split() if not hasattr(module(path), name)] == []


@pytest.mark.parametrize(("path", "real"), [(path, real) for path, (real, _) in DOORS.items()])
def test_a_door_is_the_module_itself(path: str, real: str) -> None:
    parent, _, name = path.rpartition(".")
    assert module(path) is getattr(module(parent), name) is module(real)


@pytest.mark.parametrize("way", ["import {0} as found", "from {1} import {2} as found", "found = import_module('{0}')"])
def test_a_door_that_is_the_first_import(way: str) -> None:
    path, parent = f"{PACK}.modules.samplers", f"{PACK}.modules"
    script = f"from importlib import import_module\n{way.format(path, parent, 'samplers')}\nprint(found.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{PACK}.sampling.samplers"


def test_what_is_assigned_through_a_door_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from attention_patchbay.ldm_patched.modules import samplers
    from attention_patchbay.ldm_patched.sampling.samplers import CFGGuider

    monkeypatch.setattr(samplers, "sampling_function", lambda *args: "mine")
    guider = CFGGuider.__new__(CFGGuider)
    guider.inner_model, guider.conds, guider.cfg = None, {}, 1.0  # type: ignore[assignment]
    assert guider.predict_noise(None, None, {}) == "mine"  # type: ignore[arg-type]
