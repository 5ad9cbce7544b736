"""LoRA files of random numbers for the small UNet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from attention_patchbay.ldm_patched.files.lora import load_lora, unet_names
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.lora import Lora, LoraFile, lora_on
from torch import Tensor, nn

from .models import draw, patcher

RANK = 3


def layers(wanted: Callable[[str], bool] = lambda path: True) -> dict[str, Any]:
    """Return the linear layers and convolutions of the UNet by their paths."""
    found = patcher().model.diffusion_model.named_modules()
    return {path: one for path, one in found if isinstance(one, (nn.Linear, nn.Conv2d)) and wanted(path)}


def entries(wanted: Callable[[str], bool] = lambda path: True, seed: int = 0, size: float = 0.1) -> dict[str, Tensor]:
    """Return a LoRA, and a LoCon of the convolutions, for all layers whose paths are wanted."""
    file: dict[str, Tensor] = {}
    for number, (path, one) in enumerate(layers(wanted).items()):
        weight, name = one.weight, f"lora_unet_{path.replace('.', '_')}"
        ones = (1,) * (weight.ndim - 2)
        file[f"{name}.lora_up.weight"] = size * draw(seed + number, weight.shape[0], RANK, *ones)
        file[f"{name}.lora_down.weight"] = size * draw(seed + 500 + number, RANK, *weight.shape[1:])
        file[f"{name}.alpha"] = torch.tensor(2.0)
    return file


def lora(file: dict[str, Tensor], name: str = "style") -> Lora:
    """Return a file as the small UNet has it."""
    return _found(LoraFile.of(name, file))


@functools.cache
def _found(file: LoraFile) -> Lora:
    return lora_on(patcher(), file, Host().weights(patcher()))


def patched(file: dict[str, Tensor], strength: float = 1.0) -> Any:
    """Return a patcher whose weights the file changes: what a plain LoRA loader gives."""
    model = patcher().clone()
    patches, _ = load_lora(file, unet_names(model.model.state_dict()))
    model.add_patches(patches, strength)
    return model
