"""A Stable Video Diffusion checkpoint small enough for a unit test, in the layout of the public file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from attention_patchbay.ldm_patched.ldm.models.autoencoder import VideoAutoencoder
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading.video import VISION_PREFIX
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.text.clip_vision import CLIPVisionModel
from safetensors.torch import save_file

from ..unets import UNET as SMALL

UNET: dict[str, Any] = {
    **SMALL,
    "in_channels": 8,
    "model_channels": 64,
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
    "use_linear_in_transformer": True,
    "context_dim": 32,
    "num_heads": -1,
    "num_head_channels": 64,
    "num_classes": "sequential",
    "adm_in_channels": 768,
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "use_spatial_context": True,
    "extra_ff_mix_layer": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "disable_temporal_crossattention": False,
    "video_kernel_size": [3, 1, 1],
}
VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "num_channels": 3,
    "patch_size": 14,
    "image_size": 224,
    "layer_norm_eps": 1e-5,
    "projection_dim": 32,
}
VAE: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "z_channels": 4,
    "in_channels": 3,
    "out_ch": 3,
}
LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
LAYER |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


class Held(dict):
    """Weights in memory, with the shapes a file has."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in self.items()}


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw every norm and every mixing factor too: at their first values they would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5, generator=generator)
    return module.requires_grad_(False).eval()


def unet(**changes: Any) -> UNetModel:
    torch.manual_seed(0)
    return randomised(UNetModel(**UNET | changes, operations=plain))


def vae(**changes: Any) -> VideoAutoencoder:
    torch.manual_seed(1)
    return randomised(VideoAutoencoder(VAE | changes, operations=plain))


def vision(**changes: Any) -> CLIPVisionModel:
    torch.manual_seed(2)
    model = CLIPVisionModel(VISION | changes, torch.float32, "cpu", plain)
    torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=0.02)
    return randomised(model)


def to_open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a vision model's weights as OpenCLIP has them."""
    renamed = {}
    for key, value in state.items():
        layer = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if layer is None:
            renamed[_outside(key)] = value.T if key == "visual_projection.weight" else value
        elif layer[2] in LAYER:
            renamed[f"transformer.resblocks.{layer[1]}.{LAYER[layer[2]]}.{layer[3]}"] = value
        elif layer[2] == "self_attn.q_proj":
            parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            renamed[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(parts)
    return renamed


def _outside(key: str) -> str:
    names = {
        "vision_model.embeddings.class_embedding": "class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "positional_embedding",
        "visual_projection.weight": "proj",
    }
    return names.get(key, re.sub(r"vision_model\.(pre|post)_laye?rnorm", r"ln_\1", key))


def state() -> dict[str, torch.Tensor]:
    """Return the weights of a whole checkpoint by their public names."""
    parts = {
        "model.diffusion_model.": unet().state_dict(),
        "first_stage_model.": vae().state_dict(),
        VISION_PREFIX: to_open_clip(vision().state_dict()),
    }
    return {prefix + key: value.contiguous() for prefix, part in parts.items() for key, value in part.items()}


def write(path: Path) -> Path:
    """Write the checkpoint."""
    save_file(state(), path)
    return path
