"""State-dict keys, shapes and buffers against those of public checkpoints."""

from __future__ import annotations

import gzip
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.controlnet import cldm, union
from attention_patchbay.ldm_patched.ldm.modules import attention, gligen
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules import openaimodel, util

FACTS = json.loads(gzip.decompress((Path(__file__).parents[3] / "data" / "state_dict_keys.json.gz").read_bytes()))
MODULES: dict[str, ModuleType] = {
    "ldm.modules.attention": attention,
    "ldm.modules.diffusionmodules.openaimodel": openaimodel,
    "ldm.modules.diffusionmodules.util": util,
    "cldm.cldm": cldm,
    "gligen": gligen,
}
HERE = {name: fact for name, fact in FACTS.items() if fact["class"].rpartition(".")[0] in MODULES and fact["init"]}


@pytest.mark.parametrize("name", HERE)
def test_keys_and_shapes(name: str) -> None:
    fact = HERE[name]
    module, _, cls = fact["class"].rpartition(".")
    is_union = "union_controlnet_num_control_type" in fact["init"]
    build = union.UnionControlNet if is_union else getattr(MODULES[module], cls)
    place: dict[str, Any] = {"device": "meta"} if "device" in inspect.signature(build).parameters else {}
    made = build(**fact["init"], **place)
    assert {key: list(tensor.shape) for key, tensor in made.state_dict().items()} == fact["keys"]
    assert sorted(key for key, _ in made.named_buffers()) == sorted(fact["buffers"])
    if cls == "UNetModel":
        assert all(p.is_meta for key, p in made.named_parameters() if "mix_factor" not in key)


def test_every_family_is_covered() -> None:
    unets = {name.removeprefix("UNetModel_") for name in HERE if name.startswith("UNetModel_")}
    assert {"sd15", "sd15_inpaint", "sd21", "sdxl", "sdxl_refiner"} <= unets


def test_unet_remembers_its_dtype() -> None:
    unet = openaimodel.UNetModel(**HERE["UNetModel_sd15"]["init"], dtype=torch.float16, device="meta")
    assert unet.dtype == torch.float16
    assert {p.dtype for p in unet.parameters()} == {torch.float16}
