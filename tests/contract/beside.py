"""The UNet that children sample behind nodes of ours and of others, in ComfyUI: import it after ComfyUI's arguments."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.supported_models
import torch
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.nodes import _comfyui
from attention_patchbay.tests.unets import UNET

# The blocks of SD 1, which some packs count on, in few channels
SD1: dict[str, Any] = {
    **UNET,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
HOST = Host(attend=_comfyui.attend, predict=_comfyui.predict)
CPU = torch.device("cpu")


def unet(seed: int = 0) -> Any:
    """Return a patcher of that UNet with random weights."""
    config = comfy.supported_models.SD15({**SD1, "adm_in_channels": None, "use_temporal_attention": False})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, as a part of the largest number of the other."""
    return ((one - other).abs().max() / other.abs().max()).item()
