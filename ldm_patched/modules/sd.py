"""Load checkpoints into the MODEL, CLIP and VAE objects of a graph."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..ldm.models.autoencoder import AutoencoderKL
from . import model_management
from .checkpoint import Checkpoint, CheckpointError
from .clip import CLIP, TextEncoder
from .clip_model import CLIPTextModel
from .demo.tokenizer import VOCABULARY, DemoTokenizer
from .model_base import MODEL_CLASSES, BaseModel, ModelConfig
from .model_detection import (
    UNET_PREFIXES,
    VAE_PREFIXES,
    detect_clip,
    detect_unet,
    detect_vae,
    find_prefix,
    model_config,
    strip_prefix,
)
from .model_patcher import ModelPatcher
from .ops import disable_weight_init, manual_cast
from .prompt import PromptTokenizer, Tokenizer
from .vae import VAE

__all__ = ["CLIP", "VAE", "CheckpointError", "load_checkpoint", "load_unet"]

log = logging.getLogger(__name__)

CLIP_PREFIXES = ("cond_stage_model.transformer.", "cond_stage_model.")
TEXT_DTYPE = torch.float16  # of the weights; the layers cast them to the dtype of the activations, which is float32
SPREAD_KEY = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[ModelPatcher, CLIP, VAE]:
    """Load the UNet, text encoder and VAE of a single safetensors file."""
    file = Checkpoint(path)
    try:
        unet_prefix = _prefix(file, UNET_PREFIXES[:2], "input_blocks.0.0.weight", "a UNet")
        vae_prefix = _prefix(file, VAE_PREFIXES[:2], "decoder.conv_in.weight", "a VAE")
        return _load_model(file, unet_prefix), _load_clip(file), _load_vae(file, vae_prefix)
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def load_unet(path: str | os.PathLike[str]) -> ModelPatcher:
    """Load the UNet of a safetensors file, with or without a prefix."""
    file = Checkpoint(path)
    try:
        return _load_model(file, _prefix(file, UNET_PREFIXES, "input_blocks.0.0.weight", "a UNet"))
    except CheckpointError as error:
        raise CheckpointError(f"{file.path}: {error}") from error


def _prefix(file: Checkpoint, prefixes: tuple[str, ...], key: str, what: str) -> str:
    prefix = find_prefix(file.shapes, prefixes, key)
    if prefix is None:
        found = ", ".join(sorted(file.shapes)[:3])
        raise CheckpointError(f"no {what.split()[1]} found: expected {prefixes[0]}{key}, found {found}, ...")
    return prefix


def _load_model(file: Checkpoint, prefix: str) -> ModelPatcher:
    unet = detect_unet(file.shapes, prefix)
    spread = None
    if prefix + SPREAD_KEY in file:
        spread = float(file[prefix + SPREAD_KEY].float().std(unbiased=False))
    config = model_config(unet, file.shapes, spread)
    device = model_management.get_torch_device()
    dtype = model_management.unet_dtype(device)
    model = build_model(config, dtype)
    load_weights(model.diffusion_model, file, prefix, dtype)
    return ModelPatcher(model, device, model_management.unet_offload_device())


def build_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Build a model whose network has no weights yet (they are on the meta device)."""
    return MODEL_CLASSES[config.family](config, dtype, device="meta", operations=disable_weight_init)


def _load_vae(file: Checkpoint, prefix: str) -> VAE:
    config = detect_vae(file.shapes, prefix)
    device = model_management.vae_device()
    dtype = model_management.vae_dtype(device)
    model = AutoencoderKL(config, config["embed_dim"], dtype, "meta", disable_weight_init)
    load_weights(model, file, prefix, dtype)
    return VAE(model, dtype, device, model_management.unet_offload_device())


def _load_clip(file: Checkpoint) -> CLIP:
    prefix = find_prefix(file.shapes, CLIP_PREFIXES, "text_model.embeddings.token_embedding.weight")
    if prefix is None:
        raise CheckpointError(f"no text encoder found: expected {CLIP_PREFIXES[0]}text_model.embeddings...")
    config = detect_clip(strip_prefix(file.shapes, prefix))
    device = model_management.text_encoder_device()
    transformer = CLIPTextModel(config, TEXT_DTYPE, "meta", manual_cast)
    load_weights(transformer, file, prefix, TEXT_DTYPE)
    tokenizer = PromptTokenizer(tokenizer_for(config["vocab_size"]), config["max_position_embeddings"])
    return CLIP({"l": TextEncoder(transformer)}, {"l": tokenizer}, device, model_management.unet_offload_device())


def tokenizer_for(vocabulary: int) -> Tokenizer:
    """Return the tokenizer of a text encoder with that many tokens."""
    if vocabulary == len(VOCABULARY):
        return DemoTokenizer()
    raise CheckpointError(f"no tokenizer for a text encoder of {vocabulary} tokens; use its UNet with load_unet")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, dtype: torch.dtype) -> None:
    """Give a module built on the meta device its weights, one tensor at a time; a missing one is an error."""
    state: dict[str, Any] = {}
    for key, empty in module.state_dict().items():
        if prefix + key not in tensors:
            raise CheckpointError(f"{prefix}{key} is missing; the file is incomplete or of another kind")
        tensor = tensors[prefix + key]
        if tensor.shape != empty.shape:
            raise CheckpointError(f"{prefix}{key} has shape {tuple(tensor.shape)}, expected {tuple(empty.shape)}")
        state[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()
