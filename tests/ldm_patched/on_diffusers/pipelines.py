"""Small pipelines of diffusers with random weights, and a tokenizer that knows letters."""

from __future__ import annotations

import string
import warnings
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from ...unets import draw
from .tiny import BETAS, transformer, unet

LETTERS = [*string.ascii_lowercase, ",", "."]
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
LENGTH = 32  # tokens of a prompt


def tokenizer() -> Any:
    pieces = [*SPECIAL, *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=LENGTH)


def text_encoder() -> Any:
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=len(SPECIAL) + 2 * len(LETTERS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


def vae() -> Any:
    torch.manual_seed(2)
    return AutoencoderKL(block_out_channels=(32,), layers_per_block=1).eval().requires_grad_(False)


def stable_diffusion(scheduler: Any = None) -> Any:
    """Return a pipeline that draws 8x8 pixels."""
    pipe = StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        unet=unet(),
        scheduler=scheduler or DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, cfg: float = 5.0, steps: int = 4, **more: Any) -> Tensor:
    """Return the latent that a pipeline of Stable Diffusion samples."""
    asked = {"num_inference_steps": steps, "guidance_scale": cfg, "height": 8, "width": 8, "output_type": "latent"}
    with warnings.catch_warnings():  # diffusers hands tensors to numpy in a way that numpy 2 warns about
        warnings.simplefilter("ignore", DeprecationWarning)
        out: Tensor = pipe("a red fox", negative_prompt="fog", latents=draw(0, 1, 4, 8, 8), **{**asked, **more}).images
    return out


def t5_tokenizer() -> Any:
    blank, words = "\u2581", ("red", "f")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (blank, -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=[*pieces, *((f"{blank}{word}", -1.0) for word in words), ("ox", -1.0)], extra_ids=0)


def t5_encoder() -> Any:
    torch.manual_seed(3)
    size = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5EncoderModel(T5Config(vocab_size=40, **size)).eval().requires_grad_(False)


def flux_pipeline() -> Any:
    """Return a pipeline whose scheduler shifts by the size of the picture."""
    texts = {"text_encoder": text_encoder(), "tokenizer": tokenizer()}
    texts |= {"text_encoder_2": t5_encoder(), "tokenizer_2": t5_tokenizer()}
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(scheduler=scheduler, vae=vae(), transformer=transformer("Flux")[0], **texts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_by_flux(pipe: Any, **more: Any) -> Tensor:
    asked = {"height": 16, "width": 24, "num_inference_steps": 4, "output_type": "latent"}
    out: Tensor = pipe("a red fox", **asked, generator=torch.Generator().manual_seed(0), **more).images
    return out
