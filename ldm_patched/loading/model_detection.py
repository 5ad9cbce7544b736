"""Read a model's configuration from its state dict's keys and shapes.

Some things are not in any shape and follow from a rule:
- the heads of a UNet: 8 where the projections into its transformers are convolutions (SD1), else 64 channels each;
- the heads of a CLIP text model: 64 channels each, and 32 where the model is narrower than 512 channels;
- the heads of a CLIP vision model: 16 in the large ones (ViT-L, H and bigG), else 64 channels each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..files.checkpoint import CheckpointError
from ..files.shapes import Shapes, count_blocks, side, some_keys, strip_prefix
from ..sampling.latent_formats import SD15, SDXL
from ..sampling.model_base import ModelConfig
from .sampling_markers import sampling_of

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
VAE_PREFIXES = ("first_stage_model.", "vae.", "")
LABEL = "label_emb.0.0.weight"
NO_MARKERS: Mapping[str, Any] = {}


# UNet


def detect_unet(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    """Return UNetModel's arguments from the keys and shapes of a UNet in the LDM layout."""
    shapes = strip_prefix(shapes, prefix)
    if "input_blocks.0.0.weight" not in shapes or "time_embed.0.weight" not in shapes:
        raise CheckpointError(
            f"no UNet found: expected keys such as {prefix}input_blocks.0.0.weight, found {some_keys(shapes)}"
        )
    channels = side(shapes, "input_blocks.0.0.weight")
    count = count_blocks(shapes, "input_blocks.")
    levels = _levels(shapes, count)
    blocks = [index for level in levels for index in level]
    depths = [_depth(shapes, f"input_blocks.{i}.1.") for i in blocks]
    transformers = [key for key in shapes if key.endswith(".proj_in.weight")]
    linear = bool(transformers) and len(shapes[transformers[0]]) == 2
    contexts = [side(shapes, key, 1) for key in shapes if key.endswith("transformer_blocks.0.attn2.to_k.weight")]
    vector = side(shapes, LABEL, 1) if LABEL in shapes else None
    return {
        "image_size": 32,
        "in_channels": side(shapes, "input_blocks.0.0.weight", 1),
        "out_channels": side(shapes, "out.2.weight"),
        "model_channels": channels,
        "num_res_blocks": [len(level) for level in levels],
        "channel_mult": [
            side(shapes, f"input_blocks.{level[0]}.0.out_layers.3.weight") // channels for level in levels
        ],
        "transformer_depth": depths,
        "transformer_depth_output": [_depth(shapes, f"output_blocks.{count - 1 - i}.1.") for i in range(count)],
        "transformer_depth_middle": _middle_depth(shapes),
        "use_spatial_transformer": True,
        "use_linear_in_transformer": linear,
        "context_dim": contexts[0] if contexts else None,
        "num_heads": -1 if linear else 8,
        "num_head_channels": 64 if linear else -1,
        "num_classes": None if vector is None else "sequential",
        "adm_in_channels": vector,
        "legacy": False,
        **_video(shapes),
    }


def _video(shapes: Shapes) -> dict[str, Any]:
    """Return what a UNet with layers over the frames has besides, as all of Stable Video Diffusion's have it."""
    if not any(".1.time_stack.0.attn1." in key for key in shapes):
        return {}
    return {
        "use_temporal_resblock": True,
        "use_temporal_attention": True,
        "use_spatial_context": True,
        "disable_temporal_crossattention": not any(".1.time_stack.0.attn2." in key for key in shapes),
        "extra_ff_mix_layer": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.0,
        "video_kernel_size": [3, 1, 1],
    }


def _levels(shapes: Shapes, count: int) -> list[list[int]]:
    levels: list[list[int]] = [[]]
    for i in range(1, count):
        if f"input_blocks.{i}.0.op.weight" in shapes:
            levels.append([])
        elif f"input_blocks.{i}.0.in_layers.0.weight" in shapes:
            levels[-1].append(i)
        else:
            raise CheckpointError(f"input_blocks.{i} is neither a residual block nor a downsampling; found others")
    if not all(levels):
        raise CheckpointError("the UNet has a level without residual blocks; the file seems incomplete")
    return levels


def _middle_depth(shapes: Shapes) -> int:
    if "middle_block.1.proj_in.weight" in shapes:
        return _depth(shapes, "middle_block.1.")
    return -1 if "middle_block.0.in_layers.0.weight" in shapes else -2


def _depth(shapes: Shapes, prefix: str) -> int:
    return count_blocks(shapes, f"{prefix}transformer_blocks.")


def model_config(
    unet: Mapping[str, Any], markers: Mapping[str, Any] = NO_MARKERS, spread: float | None = None
) -> ModelConfig:
    """Name the family of a UNet and what it predicts; `markers` and `spread` are explained at `sampling_of`."""
    context, vector = unet["context_dim"], unet["adm_in_channels"]
    if unet.get("use_temporal_attention"):
        return _video_config(unet)
    if context == 1280 and vector == 2560:
        family = "sdxl_refiner"
    elif vector == 2816:
        family = "sdxl"
    elif vector is None:
        family = "sd2" if unet["use_linear_in_transformer"] else "sd1"
    else:
        raise CheckpointError(f"unknown UNet: context {context}, vector conditioning {vector}")
    settings: dict[str, Any] = {"latent_format": SDXL() if family.startswith("sdxl") else SD15()}
    return ModelConfig(
        family=family,
        unet={**unet, "attn_precision": torch.float32 if family == "sd2" else None},
        concat=_concat(unet),
        **settings | sampling_of(family, unet["in_channels"], markers, spread),
    )


def _video_config(unet: Mapping[str, Any]) -> ModelConfig:
    if unet["adm_in_channels"] != 768 or unet["in_channels"] != 8:
        raise CheckpointError(
            f"unknown video UNet: vector conditioning {unet['adm_in_channels']}, {unet['in_channels']} input channels;"
            " Stable Video Diffusion has 768 and 8"
        )
    noise = {"sigma_min": 0.002, "sigma_max": 700.0}
    return ModelConfig("svd", {**unet, "attn_precision": torch.float32}, "v_prediction", continuous=noise)


def _concat(unet: Mapping[str, Any]) -> str | None:
    extra = unet["in_channels"] - unet["out_channels"]
    kinds = {0: None, 5: "inpaint", 4: "ip2p"}
    if extra not in kinds:
        raise CheckpointError(f"unknown UNet: {unet['in_channels']} input and {unet['out_channels']} output channels")
    return kinds[extra]


# VAE


def detect_vae(shapes: Shapes, prefix: str = "") -> dict[str, Any]:
    """Return AutoencoderKL's `ddconfig`, under `embed_dim` the latent's channels, and whether it decodes videos."""
    shapes = strip_prefix(shapes, prefix)
    video = "decoder.mid.block_1.mix_factor" in shapes  # these have no convolution in front of the decoder
    needed = ["encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"]
    needed += [] if video else ["post_quant_conv.weight"]
    missing = [key for key in needed if key not in shapes]
    if missing:
        raise CheckpointError(f"no VAE found: {prefix}{missing[0]} is missing, found {some_keys(shapes)}")
    channels, in_channels = (side(shapes, "encoder.conv_in.weight", axis) for axis in (0, 1))
    z_channels = side(shapes, "decoder.conv_in.weight", 1)
    levels = count_blocks(shapes, "encoder.down.")
    return {
        "ch": channels,
        "ch_mult": [side(shapes, f"encoder.down.{i}.block.0.conv1.weight") // channels for i in range(levels)],
        "num_res_blocks": count_blocks(shapes, "encoder.down.0.block."),
        "z_channels": z_channels,
        "in_channels": in_channels,
        "out_ch": side(shapes, "decoder.conv_out.weight"),
        "double_z": side(shapes, "encoder.conv_out.weight") == 2 * z_channels,
        "embed_dim": z_channels if video else side(shapes, "post_quant_conv.weight", 1),
        "video": video,
        "quant": "quant_conv.weight" in shapes,
    }
