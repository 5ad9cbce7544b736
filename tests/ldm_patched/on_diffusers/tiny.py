"""Small random networks of diffusers, the same UNet in this library, and loops that sample with them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.sampler import sampler_object
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from torch import Tensor

from ...unets import draw

CFG, STEPS, WORDS = 4.0, 3, 7
BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
POSITIVE, NEGATIVE, NOISE = draw(1, 1, WORDS, 16), draw(2, 1, WORDS, 16), draw(0, 1, 4, 8, 8)


class Weights(dict[str, Tensor]):
    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in self.items()}


# The UNet


@functools.cache
def unet() -> Any:
    """Return diffusers' UNet; its blocks are input:1, input:3, middle and output:0 to 3."""
    torch.manual_seed(0)
    made = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    )
    return made.eval().requires_grad_(False)


@functools.cache
def same_unet() -> ModelPatcher:
    """Return this library's UNet with the same weights."""
    weights = Weights(unet().state_dict())
    found = sd.find_unet(weights, ("",))
    config = sd.config_of(found, weights)
    config = replace(config, unet={**config.unet, "num_heads": 4, "num_head_channels": -1})
    return sd.build_unet(found, config, torch.float32)


def euler() -> Any:
    with warnings.catch_warnings():  # diffusers hands tensors to numpy in a way that numpy 2 warns about
        warnings.simplefilter("ignore", DeprecationWarning)
        scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
        scheduler.set_timesteps(STEPS)
    return scheduler


@torch.no_grad()
def sampled_by_diffusers(scheduler: Any) -> Tensor:
    """Sample as pipelines do: both prompts in one call, the negative one first."""
    x = NOISE * (1 + scheduler.sigmas[0] ** 2) ** 0.5
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(torch.cat([x, x]), t)
        uncond, cond = unet()(seen, t, encoder_hidden_states=torch.cat([NEGATIVE, POSITIVE])).sample.chunk(2)
        x = scheduler.step(uncond + CFG * (cond - uncond), t, x).prev_sample
    return x


def sampled_here(model: Any) -> Tensor:
    """Sample with this library's UNet over the same noise levels."""
    sampler, empty = sampler_object("euler"), torch.zeros_like(NOISE)
    prompts = [[POSITIVE, {}]], [[NEGATIVE, {}]]
    out = samplers.sample_custom(model, NOISE, *prompts, CFG, sampler, euler().sigmas, empty)
    return out * same_unet().model.latent_format.scale_factor


# Transformers


def flux() -> tuple[Any, Tensor, dict[str, Any]]:
    made = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    places = torch.zeros(4, 6, 3)
    places[..., 1], places[..., 2] = torch.arange(4)[:, None], torch.arange(6)
    ids = {"img_ids": places.reshape(-1, 3), "txt_ids": torch.zeros(WORDS, 3)}
    return made, draw(0, 1, 24, 16), {"pooled_projections": draw(2, 1, 16), **ids}


def qwen() -> tuple[Any, Tensor, dict[str, Any]]:
    made = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    mask = torch.tensor([[1] * (WORDS - 2) + [0, 1]])
    return made, draw(0, 1, 24, 16), {"encoder_hidden_states_mask": mask, "img_shapes": [[(1, 4, 6)]]}


def wan() -> tuple[Any, Tensor, dict[str, Any]]:
    made = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        rope_max_seq_len=32,
    )
    return made, draw(0, 1, 4, 3, 8, 12), {}


MAKERS: dict[str, Callable[[], tuple[Any, Tensor, dict[str, Any]]]] = {"Flux": flux, "Qwen-Image": qwen, "Wan": wan}


@functools.cache
def transformer(name: str) -> tuple[Any, Tensor, dict[str, Any]]:
    """Return a network with weights that let the picture depend on everything, its noise and the rest it is given."""
    torch.manual_seed(0)
    made, noise, given = MAKERS[name]()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.15) if weight.ndim > 1 else weight.data.add_(torch.randn_like(weight) / 20)
    return made.eval().requires_grad_(False), noise, {**given, "encoder_hidden_states": draw(1, 1, WORDS, 32)}


def flow() -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    return scheduler


@torch.no_grad()
def sampled(name: str, scheduler: Any, cfg: float = 1.0) -> Tensor:
    """Sample as pipelines do: a call for each prompt, which they name."""
    net, x, given = transformer(name)
    scale = 1.0 if name == "Wan" else 1000.0

    def predicted(x: Tensor, t: Tensor, side: str) -> Tensor:
        text = given["encoder_hidden_states"] if side == "cond" else draw(9, 1, WORDS, 32)
        with net.cache_context(side):
            more = {**given, "encoder_hidden_states": text}
            out: Tensor = net(hidden_states=x, timestep=t.expand(1) / scale, return_dict=False, **more)[0]
        return out

    for t in scheduler.timesteps:
        made = predicted(x, t, "cond")
        if cfg != 1.0:
            other = predicted(x, t, "uncond")
            made = other + cfg * (made - other)
        x = scheduler.step(made, t, x, return_dict=False)[0]
    return x
