"""ComfyUI's core nodes for self-attention guidance and for a perpendicular negative, for the embedded host."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ldm_patched.ldm.modules.attention import optimized_attention
from ...ldm_patched.sampling.cond_batch import calc_cond_batch, convert_cond, process_conds
from ...ldm_patched.sampling.guiders import perp_neg
from ..api import comfy_io as io
from .conditioning import Conditioning
from .declared import Nodes
from .model_patches import patched_model

NODES = Nodes("experimental")
KERNEL = 9  # latent pixels of the blur
SMALLEST = 4  # a latent of a side like this has no room for the blur
UNCOND = 1
Options = dict[str, Any]


@dataclass
class SelfAttention:
    """Guide away from the picture whose looked-at parts are blurred (Hong et al., 2023), as ComfyUI's node does."""

    scale: float
    sigma: float
    looked_at: Tensor | None = None  # (b, tokens), of the step in progress

    def attend(self, q: Tensor, k: Tensor, v: Tensor, extra_options: Options, mask: Any = None) -> Tensor:
        """Attend, and note what the negative prompt looks at in q and k (b, tokens, c)."""
        sides, heads = extra_options["cond_or_uncond"], extra_options["n_heads"]
        if UNCOND in sides:
            rows = slice(*(len(q) // len(sides) * (sides.index(UNCOND) + i) for i in (0, 1)))
            queries, keys = (x[rows].unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k))
            scores = (queries @ keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5
            self.looked_at = scores.float().softmax(-1).mean(1).sum(1)
        return optimized_attention(q, k, v, heads, attn_precision=extra_options["attn_precision"])

    def guided(self, args: dict[str, Any]) -> Tensor:
        """Return the guided prediction, after that of the prompts."""
        looked_at, self.looked_at = self.looked_at, None
        denoised, x0 = args["denoised"], args["uncond_denoised"]
        if min(denoised.shape[2:]) <= SMALLEST or looked_at is None:
            return denoised
        worse = where_looked_at(x0, looked_at, blurred(x0, self.sigma))
        noised = worse + args["input"] - x0
        (again,) = calc_cond_batch(args["model"], [args["uncond"]], noised, args["sigma"], args["model_options"])
        return denoised + (worse - again) * self.scale


def where_looked_at(x: Tensor, looked_at: Tensor, other: Tensor) -> Tensor:
    """Return latents (b, c, h, w) with another one at tokens that get more than an even share of attention."""
    height, width = x.shape[-2:]
    tokens = looked_at.shape[1]
    rows = nearest_divisor(tokens, round(math.sqrt(height / width * tokens)))
    mask = (looked_at > 1.0).to(x).reshape(len(x), 1, rows, tokens // rows)
    mask = F.interpolate(mask, (height, width))
    return other * mask + x * (1 - mask)


def nearest_divisor(count: int, wanted: int) -> int:
    """Return the divisor of a count that is nearest to a number, the larger of two."""
    for distance in range(count):
        for near in (wanted + distance, max(1, wanted - distance)):
            if count % near == 0:
                return near
    return count


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur latents (b, c, h, w) by a bell of 9 pixels, mirrored at the edges."""
    places = torch.arange(KERNEL, device=x.device) - KERNEL // 2
    bell = torch.exp(-0.5 * (places.float() / sigma) ** 2)
    bell = (bell / bell.sum()).to(x.dtype)
    kernel = (bell[:, None] * bell).expand(x.shape[1], 1, KERNEL, KERNEL)
    return F.conv2d(F.pad(x, [KERNEL // 2] * 4, mode="reflect"), kernel, groups=x.shape[1])


@NODES.add(
    "SelfAttentionGuidance",
    "Self-Attention Guidance",
    [
        patched_model(),
        io.Float.Input("scale", default=0.5, min=-2.0, max=5.0, step=0.01, tooltip="How strongly."),
        io.Float.Input(
            "blur_sigma", default=2.0, min=0.0, max=10.0, step=0.1, advanced=True, tooltip="How wide the blur is."
        ),
    ],
    io.Model,
    is_experimental=True,
)
def self_attention_guidance(model: Any, scale: float, blur_sigma: float) -> Any:
    """Guide away from a picture that is blurred where the model looks."""
    guidance = SelfAttention(scale, blur_sigma)
    model = model.clone()
    model.set_model_sampler_post_cfg_function(guidance.guided, disable_cfg1_optimization=True)
    model.set_model_attn1_replace(guidance.attend, "middle", 0, 0)
    return model


@NODES.add(
    "PerpNeg",
    "Perp-Neg (DEPRECATED by Perp-Neg Guider)",
    [
        patched_model(),
        io.Conditioning.Input("empty_conditioning", tooltip="The empty prompt."),
        io.Float.Input(
            "neg_scale", default=1.0, min=0.0, max=100.0, step=0.01, advanced=True, tooltip="Weight of the negative."
        ),
    ],
    io.Model,
    is_experimental=True,
    is_deprecated=True,
)
def perp_neg_model(model: Any, empty_conditioning: Conditioning, neg_scale: float) -> Any:
    """Leave of a negative prompt what the positive one has not."""
    empty = convert_cond(empty_conditioning)

    def guided(args: dict[str, Any]) -> Tensor:
        network, x, sigma = args["model"], args["input"], args["sigma"]
        conds = process_conds(network, x, {"negative": empty}, x.device)["negative"]
        (blank,) = calc_cond_batch(network, [conds], x, sigma, args["model_options"])
        predictions = args["cond_denoised"], args["uncond_denoised"], blank
        return x - perp_neg(*predictions, neg_scale, args["cond_scale"])

    model = model.clone()
    model.set_model_sampler_cfg_function(guided)
    return model
