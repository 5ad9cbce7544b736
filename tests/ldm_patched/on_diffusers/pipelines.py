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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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


def flux_pipeline() -> Any:
    """Return a pipeline whose scheduler shifts by the size of the picture; it has no texts."""
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = FluxPipeline(scheduler=scheduler, vae=vae(), transformer=transformer("Flux")[0], **nothing)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_by_flux(pipe: Any, **more: Any) -> Tensor:
    texts = {"prompt_embeds": draw(1, 1, 7, 32), "pooled_prompt_embeds": draw(2, 1, 16), "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    out: Tensor = pipe(**texts, height=16, width=24, num_inference_steps=4, generator=generator, **more).images
    return out
