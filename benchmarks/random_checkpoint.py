"""Write checkpoints of the public model families with random weights: every key and shape of the real files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.modules.ops import disable_weight_init
from attention_patchbay.ldm_patched.text.clip_model import CLIPTextModel
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

SHARED: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_spatial_transformer": True,
    "legacy": False,
}
LINEAR = {"use_linear_in_transformer": True, "num_head_channels": 64}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": SHARED | {"context_dim": 768, "num_heads": 8},
    "sd15_narrow": SHARED
    | {
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 1],
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "context_dim": 768,
        "num_heads": 8,
    },
    "sd15_inpaint": SHARED | {"context_dim": 768, "num_heads": 8, "in_channels": 9},
    "sd15_ip2p": SHARED | {"context_dim": 768, "num_heads": 8, "in_channels": 8},
    "sd21_v": SHARED | LINEAR | {"context_dim": 1024},
    "sdxl": SHARED
    | LINEAR
    | {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "context_dim": 2048,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
    "svd": SHARED
    | LINEAR
    | {
        "in_channels": 8,
        "context_dim": 1024,
        "num_heads": -1,
        "num_classes": "sequential",
        "adm_in_channels": 768,
        "use_temporal_resblock": True,
        "use_temporal_attention": True,
        "use_spatial_context": True,
        "disable_temporal_crossattention": False,
        "extra_ff_mix_layer": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.0,
        "video_kernel_size": [3, 1, 1],
    },
    "sdxl_refiner": SHARED
    | LINEAR
    | {
        "model_channels": 384,
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
        "transformer_depth_middle": 4,
        "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        "context_dim": 1280,
        "num_classes": "sequential",
        "adm_in_channels": 2560,
    },
}
VAE: dict[str, Any] = {"ch": 128, "ch_mult": (1, 2, 4, 4), "num_res_blocks": 2, "z_channels": 4}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "eos_token_id": 49407,
}
OPEN_CLIP = {"h": (1024, 24), "g": (1280, 32)}  # width and layers
TEXTS = {  # short name of a text model and where it lies
    "sd15": {"cond_stage_model.transformer.": "l"},
    "sd21_v": {"cond_stage_model.model.": "h"},
    "sdxl": {"conditioner.embedders.0.transformer.": "l", "conditioner.embedders.1.model.": "g"},
    "sdxl_refiner": {"conditioner.embedders.0.model.": "g"},
}
VELOCITY_KEY = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


class Tensors(dict[str, Tensor]):
    """A state dict with its shapes."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {key: tuple(value.shape) for key, value in self.items()}


def shapes_of(module: torch.nn.Module) -> Shapes:
    """Return the keys and shapes of a module."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def open_clip_shapes(width: int, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the keys and shapes of an OpenCLIP text model."""
    yield "token_embedding.weight", (49408, width)
    yield "positional_embedding", (77, width)
    yield "text_projection", (width, width)
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            yield f"{block}{name}weight", (rows, columns)
            yield f"{block}{name}bias", (rows,)
        for name in ("ln_1", "ln_2"):
            yield from ((f"{block}{name}.{end}", (width,)) for end in ("weight", "bias"))
    yield from ((f"ln_final.{end}", (width,)) for end in ("weight", "bias"))


def shapes(name: str) -> Shapes:
    """Return the keys and shapes of a whole checkpoint."""
    build = {"device": "meta", "operations": disable_weight_init}
    found = _under("model.diffusion_model.", shapes_of(UNetModel(**UNETS[name], **build)))
    found |= _under("first_stage_model.", shapes_of(AutoencoderKL(VAE, **build)))
    for prefix, short in TEXTS.get(name, TEXTS["sd15"]).items():
        if short == "l":
            text = shapes_of(CLIPTextModel(CLIP_L, None, "meta", disable_weight_init))
        else:
            text = dict(open_clip_shapes(*OPEN_CLIP[short]))
        found |= _under(prefix, text)
    return found


def _under(prefix: str, found: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in found.items()}


def draw(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, seed: int = 0, device: str = "cpu"
) -> dict[str, Tensor]:
    """Draw weights that keep the size of what flows through them."""
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator, device=device)
        if len(shape) > 1:
            value = value / math.sqrt(math.prod(shape[1:]))
        else:
            value = value * 0.05 + float("norm" in key or "ln_" in key) * key.endswith("weight")
        tensors[key] = value.to(dtype)
    return tensors


def write(name: str, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a checkpoint of a family."""
    tensors = draw(shapes(name), dtype)
    if name == "sd21_v":
        tensors[VELOCITY_KEY] = tensors[VELOCITY_KEY] * 4
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
