"""The smallest UNet of tests in ComfyUI, with drawn weights, and its sampling. Import it after ComfyUI's arguments."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import torch
from attention_patchbay.tests.unets import FLAT, draw
from torch import Tensor

CPU = torch.device("cpu")


def flat_unet() -> Any:
    """Return a patcher of the UNet."""
    torch.manual_seed(0)
    config = comfy.supported_models.SD15(FLAT)
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, device="cpu")
    for name, weight in network.diffusion_model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)
        else:
            torch.nn.init.constant_(weight, float(name.endswith("weight")))
    return comfy.model_patcher.ModelPatcher(network, CPU, CPU)


def sampled(model: Any, side: int) -> Tensor:
    """Return the latent (1, 4, side, side) after four steps with guidance."""
    noise = draw(3, 1, 4, side, side)
    positive, negative = ([[draw(seed, 1, 7, FLAT["context_dim"]), {}]] for seed in (1, 2))
    arguments = (4, 4.0, "euler", "normal", positive, negative, torch.zeros_like(noise))
    return comfy.sample.sample(model, noise, *arguments, disable_pbar=True, seed=0)


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest number."""
    return float((one - other).abs().max() / other.abs().max())
