"""The text encoders of a checkpoint: found by their keys, whatever layout and wherever they lie in the file.

SD1 has CLIP-L, SD2 OpenCLIP-H, SDXL CLIP-L and CLIP-bigG, the SDXL refiner CLIP-bigG alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from ..demo.tokenizer import VOCABULARY, DemoTokenizer
from ..files.checkpoint import CheckpointError
from ..files.shapes import side
from ..files.weights import Source, Weights, WeightView, load_weights, under
from ..modules import model_management
from ..modules.ops import manual_cast
from .clip import CLIP, TextEncoder
from .clip_model import CLIPTextModel
from .clip_tokenizer import VOCABULARY_SIZE, clip_tokenizer
from .detection import detect_clip
from .embeddings import FindFile
from .prompt import PromptTokenizer, Tokenizer

TEXT_DTYPE = torch.float16  # of the weights; the layers cast them to the dtype of the activations, which is float32

HUGGING_FACE = (
    "cond_stage_model.transformer.",
    "cond_stage_model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.transformer.",
)
TEXT_MODEL = "text_model."
TOKENS = "text_model.embeddings.token_embedding.weight"
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.0.model.", "conditioner.embedders.1.model.")

NAMES = {1024: "h", 1280: "g"}  # by width; anything else is CLIP-L or smaller

OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OPEN_CLIP_REST = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}


PROJECTIONS = {"text_projection": "text_projection.weight", "proj": "visual_projection.weight"}


def from_open_clip(weights: Weights, prefix: str = TEXT_MODEL, rest: Mapping[str, str] = OPEN_CLIP_REST) -> WeightView:
    """Return an OpenCLIP model, without prefix, in the Hugging Face layout: the joint projection is cut in three."""
    sources: dict[str, Source] = {}
    for key in weights.shapes:
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", key)
        if layer:
            sources |= _layer(key, f"{prefix}encoder.layers.{layer[1]}.", layer[2])
        elif key in rest:
            sources[rest[key]] = Source(key)
        elif key in PROJECTIONS:
            sources[PROJECTIONS[key]] = Source(key, transposed=True)
    return WeightView(weights, sources)


def _layer(key: str, there: str, rest: str) -> dict[str, Source]:
    """Return where the parts of one tensor of an OpenCLIP layer go: `rest` of its key below `there`."""
    part, _, end = rest.rpartition(".")
    if rest.startswith("attn.in_proj_"):
        end = rest.removeprefix("attn.in_proj_")
        return {f"{there}self_attn.{name}_proj.{end}": Source(key, third=i) for i, name in enumerate("qkv")}
    return {f"{there}{OPEN_CLIP_LAYER[part]}.{end}": Source(key)}


def find_text_encoders(file: Weights) -> dict[str, Weights]:
    """Return the text models of a checkpoint in the Hugging Face layout, by their short names."""
    found = [text_model(under(file, prefix)) for prefix in HUGGING_FACE]
    for prefix in OPEN_CLIP:
        if f"{prefix}transformer.resblocks.0.ln_1.weight" in file:
            found.append(from_open_clip(under(file, prefix)))
    return {short_name(view): view for view in found if TOKENS in view}


def text_model(weights: Weights) -> Weights:
    """Return a text model in the Hugging Face layout, where newer files leave out `text_model.` before all keys."""
    if TOKENS in weights or TOKENS.removeprefix(TEXT_MODEL) not in weights:
        return weights
    return WeightView(
        weights, {TEXT_MODEL + key: Source(key) for key in weights.shapes}, getattr(weights, "prefix", "")
    )


def short_name(weights: Weights) -> str:
    """Return "l", "h" or "g" by the width of a text model."""
    return NAMES.get(side(weights.shapes, TOKENS, 1), "l")


def build_clip(
    models: Mapping[str, Weights],
    tokenizer_of: Callable[[int], Tokenizer] | None = None,
    embeddings: FindFile | None = None,
) -> CLIP:
    """Build the CLIP object of some text models.

    `tokenizer_of` gives the tokenizer for a number of tokens, `embeddings` the file of an embedding by name. Raises
    CheckpointError when there is no text model, a weight is missing, or the vocabulary is not known.
    """
    if not models:
        raise CheckpointError("no text encoder found: expected keys such as cond_stage_model.transformer.text_model...")
    sdxl = "g" in models
    encoders, tokenizers = {}, {}
    for name in sorted(models, reverse=True):  # "l" before "g", as their outputs are joined
        config = detect_clip(models[name].shapes)
        transformer = CLIPTextModel(config, TEXT_DTYPE, "meta", manual_cast)
        load_weights(transformer, models[name], "", TEXT_DTYPE)
        encoders[name] = _encoder(name, transformer, sdxl)
        tokenizer = (tokenizer_of or tokenizer_for)(config["vocab_size"])
        tokenizers[name] = PromptTokenizer(tokenizer, config["max_position_embeddings"], pad_with_end=name == "l")
    device = model_management.text_encoder_device()
    return CLIP(encoders, tokenizers, device, model_management.unet_offload_device(), embeddings)


def _encoder(name: str, transformer: CLIPTextModel, sdxl: bool) -> TextEncoder:
    if sdxl:
        return TextEncoder(transformer, layer=-2, norm_hidden=False, projected=name == "g")
    # a file may come without the layer that is not used: 23 of 24 for OpenCLIP-H
    skipped = name == "h" and transformer.num_layers == 24
    return TextEncoder(transformer, layer=-2 if skipped else None, projected=hasattr(transformer, "text_projection"))


def tokenizer_for(vocabulary: int) -> Tokenizer:
    """Return the tokenizer of a text encoder with that many tokens.

    Raises CheckpointError when none has.
    """
    if vocabulary == len(VOCABULARY):
        return DemoTokenizer()
    if vocabulary == VOCABULARY_SIZE:
        return clip_tokenizer()
    raise CheckpointError(f"no tokenizer for a text encoder of {vocabulary} tokens; CLIP has {VOCABULARY_SIZE}")
