"""ComfyUI's core nodes that put a change of guidance or network on a model, for the embedded host."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ldm_patched.modules.patcher_extension import copy_nested_dicts
from ...ldm_patched.patches.addressing.where import Where
from ...ldm_patched.patches.methods.free_u import FreeU
from ...ldm_patched.sampling.samplers import calc_cond_batch
from ..api import comfy_io as io
from .declared import Nodes

NODES = Nodes("model/patch/unet")
OUTPUT = Where.of("output")


def patched_model() -> io.Input:
    """Return the input of a model that a node puts something on."""
    return io.Model.Input("model", tooltip="The model; the input itself stays as it is.")


# FreeU (Si et al., 2024)


def _free_u(first: float, second: float) -> list[io.Input]:
    entries = (
        ("b1", first, "Backbone of the deepest stage."),
        ("b2", second, "Backbone of the next stage."),
        ("s1", 0.9, "Skip connections of the deepest stage."),
        ("s2", 0.2, "Skip connections of the next stage."),
    )
    settings: dict[str, Any] = {"min": 0.0, "max": 10.0, "step": 0.01, "advanced": True}
    return [patched_model(), *(io.Float.Input(name, default=at, **settings, tooltip=tip) for name, at, tip in entries)]


def _with_free_u(model: Any, change: FreeU) -> Any:
    """Return a clone with it on the stages of four and of two times the first one's channels."""
    channels = model.model.model_config.unet["model_channels"]
    stages = [channels * 4, channels * 2]

    def patch(h: Tensor, skip: Tensor, transformer_options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return change.apply(h, skip, stages.index(h.shape[1]), 1.0) if h.shape[1] in stages else (h, skip)

    model = model.clone()
    model.set_model_output_block_patch(patch)
    return model


@NODES.add("FreeU", "FreeU", _free_u(1.1, 1.2), io.Model)
def free_u(model: Any, b1: float, b2: float, s1: float, s2: float) -> Any:
    """Make the backbone of a UNet stronger and its skip connections weaker."""
    return _with_free_u(model, FreeU(b1, b2, s1, s2, 1, 1.0, OUTPUT))


@NODES.add("FreeU_V2", "FreeU_V2", _free_u(1.3, 1.4), io.Model)
def free_u_v2(model: Any, b1: float, b2: float, s1: float, s2: float) -> Any:
    """Make the backbone of a UNet stronger where it is large, and its skip connections weaker."""
    return _with_free_u(model, FreeU(b1, b2, s1, s2, 2, 1.0, OUTPUT))


# Guidance


@NODES.add(
    "PerturbedAttentionGuidance",
    "PerturbedAttentionGuidance",
    [
        patched_model(),
        io.Float.Input("scale", default=3.0, min=0.0, max=100.0, step=0.01, round=0.01, tooltip="How strongly."),
    ],
    io.Model,
)
def perturbed_attention_guidance(model: Any, scale: float) -> Any:
    """Guide away from what the model makes without self-attention in its middle (Ahn et al., 2024)."""

    def values(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], mask: Any = None) -> Tensor:
        return v

    def guided(args: dict[str, Any]) -> Tensor:
        if scale == 0:
            return args["denoised"]
        options = copy_nested_dicts(args["model_options"])
        replaced = options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn1", {})
        replaced[("middle", 0)] = values
        (perturbed, *_) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + (args["cond_denoised"] - perturbed) * scale

    model = model.clone()
    model.set_model_sampler_post_cfg_function(guided)
    return model


@NODES.add(
    "RescaleCFG",
    "RescaleCFG",
    [
        patched_model(),
        io.Float.Input("multiplier", default=0.7, min=0.0, max=1.0, step=0.01, tooltip="How much of it is rescaled."),
    ],
    io.Model,
    category="model/patch",
)
def rescale_cfg(model: Any, multiplier: float) -> Any:
    """Bring the guided prediction back to the contrast of the unguided one (Lin et al., 2024)."""

    def guided(args: dict[str, Any]) -> Tensor:
        sigma = args["sigma"].reshape(-1, 1, 1, 1)
        root = (sigma * sigma + 1.0) ** 0.5
        x = args["input"] / root**2
        cond, uncond = ((x - (args["input"] - args[side])) * root / sigma for side in ("cond", "uncond"))
        whole = uncond + args["cond_scale"] * (cond - uncond)
        spread, wanted = (part.std((1, 2, 3), keepdim=True) for part in (whole, cond))
        final = multiplier * whole * (wanted / spread) + (1.0 - multiplier) * whole
        return args["input"] - (x - final * sigma / root)

    model = model.clone()
    model.set_model_sampler_cfg_function(guided)
    return model


@NODES.add(
    "DifferentialDiffusion",
    "Differential Diffusion",
    [
        patched_model(),
        io.Float.Input(
            "strength", default=1.0, min=0.0, max=1.0, step=0.01, optional=True, tooltip="Between mask and steps."
        ),
    ],
    io.Model,
    category="experimental",
    is_experimental=True,
)
def differential_diffusion(model: Any, strength: float = 1.0) -> Any:
    """Let grey parts of an inpainting mask change only from a later step on (Levin and Fried, 2023)."""

    def stepwise(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        sampling, sigmas = extra_options["model"].inner_model.model_sampling, extra_options["sigmas"]
        last = sigmas[-1] if sigmas[-1] > sampling.sigma_min else sampling.sigma_min
        first, end, now = (sampling.timestep(at) for at in (sigmas[0], last, sigma[0]))
        mask = (denoise_mask >= (now - end) / (first - end)).to(denoise_mask.dtype)
        return strength * mask + (1 - strength) * denoise_mask if 0 < strength < 1 else mask

    model = model.clone()
    model.set_model_denoise_mask_function(stepwise)
    return model
