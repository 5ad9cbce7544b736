"""Checkpoints whose layers ask for an attention function."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.commands.model_info import info_text, model_info
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint
from attention_patchbay.ldm_patched.files.preferences import UNREADABLE, preferred_functions
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading.sd import load_unet
from attention_patchbay.ldm_patched.modules.ops import plain
from safetensors.torch import save_file
from torch import Tensor

from ...unets import FLAT

LAYER = "{}.transformer_blocks.0.attn{}.comfy_attention.config"
INT8, SOL = {"attention": "comfy_kitchen_int8"}, {"attention": "comfy_kitchen_sol", "tau": 1.2}


def encoded(config: Any) -> Tensor:
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a UNet whose layers ask for two functions, for either of two, and for nothing that can be read."""
    state = dict(UNetModel(**FLAT, operations=plain).state_dict())
    asked = {("middle_block.1", 1): INT8, ("middle_block.1", 2): INT8, ("input_blocks.1.1", 1): [SOL, INT8]}
    state |= {LAYER.format(*layer): encoded(config) for layer, config in asked.items()}
    state[LAYER.format("output_blocks.0.1", 1)] = encoded(["nonsense"])
    state[LAYER.format("output_blocks.0.1", 2)] = torch.zeros(3, dtype=torch.uint8)
    path = tmp_path_factory.mktemp("models") / "unet.safetensors"
    save_file(state, path)
    return path


FOUND = {"comfy_kitchen_int8": 2, "comfy_kitchen_sol or comfy_kitchen_int8": 1, UNREADABLE: 2}


def test_the_functions_of_a_file_are_counted(file: Path) -> None:
    assert preferred_functions(Checkpoint(file)) == FOUND


def test_info_names_them(file: Path) -> None:
    about = model_info(file)
    assert about["attention"] == FOUND
    assert "attention: prefers comfy_kitchen_int8 in 2 layers" in info_text(about)


def test_a_host_that_does_not_run_them_says_so(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_unet(file)
    assert "the checkpoint prefers comfy_kitchen_int8 in 2 layers" in caplog.text


def test_a_file_without_any_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "unet.safetensors"
    save_file(dict(UNetModel(**FLAT, operations=plain).state_dict()), path)
    load_unet(path)
    assert not caplog.text and "attention:" not in info_text(model_info(path))
