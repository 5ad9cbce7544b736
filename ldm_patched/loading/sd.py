"""Load checkpoints into the MODEL, CLIP and VAE objects of a graph: single files and diffusers folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..files.checkpoint import Checkpoint, CheckpointError
from ..files.diffusers_keys import unet_from_diffusers
from ..files.diffusers_vae import vae_from_diffusers
from ..files.model_file import model_file, naming, report_unused
from ..files.preferences import warn_of_preferences
from ..files.shapes import find_prefix, side
from ..files.torch_file import named_tensors
from ..files.weights import Source, Weights, WeightView, load_weights, under
from ..images.vae import VAE
from ..ldm.models.autoencoder import AutoencoderKL, VideoAutoencoder
from ..ldm.models.tiny_autoencoder import TinyAutoencoder
from ..modules import model_management
from ..modules.model_patcher import ModelPatcher
from ..modules.ops import disable_weight_init
from ..sampling.model_base import MODEL_CLASSES, BaseModel, ModelConfig
from ..text.clip import CLIP
from ..text.embeddings import FindFile
from ..text.text_encoders import TOKENS, build_clip, find_text_encoders, from_open_clip, short_name, text_model
from .absent import Absent
from .diffusers_folder import DiffusersFolder
from .model_detection import UNET_PREFIXES, VAE_PREFIXES, detect_unet, detect_vae, model_config

__all__ = ["CLIP", "VAE", "CheckpointError", "load_checkpoint", "load_folder", "load_unet", "load_vae", "load_weights"]

VAE_KEYS = ("decoder.conv_in.weight", "encoder.conv_in.weight")
TINY_KEY = "taesd_decoder.1.weight"
log = logging.getLogger(__name__)
SPREAD_KEY = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def load_checkpoint(
    path: str | os.PathLike[str], dtype: torch.dtype | None = None, embeddings: FindFile | None = None
) -> tuple[ModelPatcher, CLIP, VAE]:
    """Load the UNet, text encoder and VAE of a single safetensors file; a file may have the UNet alone.

    `embeddings` gives the file of a textual-inversion embedding by name.
    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with model_file(path) as file:
        unet = find_unet(file, UNET_PREFIXES)
        model, clip, vae = build_unet(unet, config_of(unet, file), dtype), clip_of(file, embeddings), vae_of(file)
        report_unused(file)
    return model, clip, vae


def load_unet(path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> ModelPatcher:
    """Load the UNet of a safetensors file, with or without a prefix, or in diffusers' layout.

    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with model_file(path) as file:
        unet = find_unet(file, UNET_PREFIXES)
        model = build_unet(unet, config_of(unet, unet), dtype)  # ComfyUI too looks for markers below the prefix alone
        report_unused(file, unet.prefix)
    return model


def load_vae(path: str | os.PathLike[str]) -> VAE:
    """Load the VAE of a safetensors file, with or without a prefix, or in diffusers' layout.

    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with model_file(path) as file:
        if TINY_KEY in file:
            return build_tiny_vae(file, float(file["vae_scale"]) if "vae_scale" in file else 1.0)
        weights = find_vae(file, VAE_PREFIXES)
        vae = build_vae(weights)
        report_unused(file, weights.prefix)
    return vae


def load_tiny_vae(encoder: str | os.PathLike[str], decoder: str | os.PathLike[str], scale: float) -> VAE:
    """Load the two files of a TAESD; `scale` is that of the latents of its model.

    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    weights: dict[str, Tensor] = {}
    for part, path in (("encoder", encoder), ("decoder", decoder)):
        weights |= {f"taesd_{part}.{key}": value for key, value in named_tensors(path).items()}
    with naming(Path(decoder)):
        return build_tiny_vae(weights, scale)


def build_tiny_vae(weights: Mapping[str, Tensor], scale: float) -> VAE:
    """Build the VAE object of a TAESD."""
    device = model_management.vae_device()
    dtype = model_management.vae_dtype(device)
    if TINY_KEY not in weights:
        raise CheckpointError(f"{TINY_KEY.partition('.')[2]} is missing; the file is incomplete or of another kind")
    channels = side({TINY_KEY: tuple(weights[TINY_KEY].shape)}, TINY_KEY, 1)
    model = TinyAutoencoder(channels, scale, dtype=dtype, device="meta")
    load_weights(model, weights, "", dtype, image_format(device))
    return VAE(model, dtype, device, model_management.unet_offload_device())


def load_clip(paths: Sequence[str | os.PathLike[str]], embeddings: FindFile | None = None) -> CLIP:
    """Load text encoders from safetensors files that hold one each, or from a checkpoint.

    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(model_file(path)) for path in paths]
        texts: dict[str, Weights] = {}
        for file in files:
            with naming(file.path):
                texts |= _texts_of(file)
        clip = build_clip(texts, embeddings=embeddings)
        for file in files:
            report_unused(file)
    return clip


def _texts_of(file: Checkpoint) -> dict[str, Weights]:
    bare = from_open_clip(file) if "transformer.resblocks.0.ln_1.weight" in file else text_model(file)
    found = {short_name(bare): bare} if TOKENS in bare else find_text_encoders(file)
    if not found:
        raise _nothing(file, "text encoder of CLIP", TOKENS)
    return found


def load_folder(
    path: str | os.PathLike[str], dtype: torch.dtype | None = None, embeddings: FindFile | None = None
) -> tuple[ModelPatcher, CLIP, VAE]:
    """Load a folder in diffusers' layout: `unet`, `text_encoder`, `vae` and, if they are there, `tokenizer` and others.

    Raises CheckpointError, naming the folder, for one that is not complete or not known.
    """
    folder = DiffusersFolder(Path(path))
    with naming(folder.path):
        unet, vae = find_unet(folder.weights("unet"), ("",)), find_vae(folder.weights("vae"), ("",))
        parts = [text_model(folder.weights(part)) for part in ("text_encoder", "text_encoder_2") if folder.has(part)]
        texts = {short_name(part): part for part in parts}
        config = config_of(unet, unet)
        if prediction := folder.prediction():
            config = replace(config, prediction=prediction)
        loaded = build_unet(unet, config, dtype), build_clip(texts, folder.tokenizer, embeddings), build_vae(vae)
        for file in folder.opened:
            report_unused(file)
    return loaded


# Parts that a file may lack


def clip_of(file: Checkpoint, embeddings: FindFile | None = None) -> CLIP:
    """Return the text encoder of a checkpoint, or what says at its use that there is none."""
    texts = find_text_encoders(file)
    if texts:
        return build_clip(texts, embeddings=embeddings)
    log.warning("%s holds no text encoder; the rest of it is loaded", file.path)
    return cast(CLIP, Absent("text encoder", file.path, "take the CLIP of another checkpoint"))


def vae_of(file: Checkpoint) -> VAE:
    """Return the VAE of a checkpoint, or what says at its use that there is none."""
    if any(find_prefix(file.shapes, VAE_PREFIXES[:2], key) is not None for key in VAE_KEYS):
        return build_vae(find_vae(file, VAE_PREFIXES[:2]))
    log.warning("%s holds no VAE; the rest of it is loaded", file.path)
    return cast(VAE, Absent("VAE", file.path, "load one with the node Load VAE"))


# Finding


def find_unet(file: Weights, prefixes: tuple[str, ...]) -> WeightView:
    """Return a UNet in the LDM layout, without prefix."""
    prefix = find_prefix(file.shapes, prefixes, "input_blocks.0.0.weight")
    if prefix is not None:
        return under(file, prefix)
    names = unet_from_diffusers(file.shapes)
    if "input_blocks.0.0.weight" in names and "" in prefixes:
        return WeightView(file, {here: Source(there) for here, there in names.items()})
    raise _nothing(file, "UNet", f"{prefixes[0]}input_blocks.0.0.weight")


def find_vae(file: Weights, prefixes: tuple[str, ...]) -> WeightView:
    """Return a VAE in the layout of single-file checkpoints, without prefix."""
    prefix = find_prefix(file.shapes, prefixes, "decoder.conv_in.weight")
    if prefix is None:
        raise _nothing(file, "VAE", f"{prefixes[0]}decoder.conv_in.weight")
    weights = under(file, prefix)
    return vae_from_diffusers(weights) if any(key.startswith("decoder.mid_block.") for key in weights) else weights


def _nothing(file: Weights, what: str, key: str) -> CheckpointError:
    found = ", ".join(sorted(file.shapes)[:3])
    return CheckpointError(f"no {what} found: expected {key}, found {found}, ...")


def config_of(unet: WeightView, markers: Mapping[str, Tensor]) -> ModelConfig:
    """Detect the configuration of a UNet; `markers` are the tensors among which its file may mark the sampling."""
    spread = None
    if SPREAD_KEY in unet:
        spread = float(unet[SPREAD_KEY].float().std(unbiased=False))
    return model_config(detect_unet(unet.shapes), markers, spread)


# Building


def build_unet(unet: Weights, config: ModelConfig, dtype: torch.dtype | None = None) -> ModelPatcher:
    """Build the MODEL of a UNet; half weights compute in float32 on a CPU unless `dtype` says otherwise."""
    warn_of_preferences(unet)
    device = model_management.get_torch_device()
    dtype = dtype or model_management.unet_dtype(device)
    model = build_model(config, dtype)
    load_weights(model.diffusion_model, unet, "", dtype, image_format(device))
    return ModelPatcher(model, device, model_management.unet_offload_device())


def build_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Build a model whose network has no weights yet (they are on the meta device)."""
    return MODEL_CLASSES[config.family](config, dtype, device="meta", operations=disable_weight_init)


def build_vae(weights: Weights) -> VAE:
    """Build the VAE object of a VAE."""
    config = detect_vae(weights.shapes)
    device = model_management.vae_device()
    dtype = model_management.vae_dtype(device)
    kind = VideoAutoencoder if config["video"] else AutoencoderKL
    model = kind(config, config["embed_dim"], dtype, "meta", disable_weight_init)
    load_weights(model, weights, "", dtype, image_format(device))
    return VAE(model, dtype, device, model_management.unet_offload_device())


def image_format(device: torch.device) -> torch.memory_format:
    """Return how convolution weights lie in memory: on a CPU channels last, so that it need not reorder their input."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format
