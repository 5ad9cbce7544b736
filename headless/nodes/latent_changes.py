"""ComfyUI's core nodes that turn, cut, mix and batch latents, for the embedded host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ldm_patched.sampling.conds import repeat_to_batch_size
from ...ldm_patched.sampling.upscale import common_upscale
from ..api import comfy_io as io
from .conditioning import RESOLUTION_MAX
from .declared import Nodes
from .filters import convolved, sharpening_kernel
from .image_parts import FLIPS, ROTATIONS, from_batch
from .latent import SMALLEST
from .model_patches import patched_model
from .sizes import pixels

NODES = Nodes("model/latent/advanced")
Latent = dict[str, Any]
Operation = Callable[..., Tensor]
BATCH, TRANSFORM = "model/latent/batch", "model/latent/transform"
DIMENSIONS = {"x": -1, "y": -2, "t": -3}


def samples() -> io.Input:
    """Return the input of latents."""
    return io.Latent.Input("samples", tooltip="The latents.")


def _two() -> list[io.Input]:
    return [
        io.Latent.Input("samples1", tooltip="The first latents."),
        io.Latent.Input("samples2", tooltip="The second latents."),
    ]


def places(latent: Latent) -> list[int]:
    """Return the place in a batch that the noise of each latent is drawn at."""
    return list(latent.get("batch_index", range(len(latent["samples"]))))


def fitted(tensor: Tensor, like: Tensor) -> Tensor:
    """Return latents of the size of others."""
    if tensor.shape[1:] == like.shape[1:]:
        return tensor
    return common_upscale(tensor, like.shape[-1], like.shape[-2], "bilinear", "center")


def pair(samples1: Latent, samples2: Latent) -> tuple[Tensor, Tensor]:
    """Return the samples of two latents, the second in size and number of the first."""
    first = samples1["samples"]
    return first, repeat_to_batch_size(fitted(samples2["samples"], first), len(first))


def batched(latents: Sequence[Latent]) -> Latent:
    """Return latents as one batch, all of the size of the first."""
    first = latents[0]["samples"]
    joined = torch.cat([fitted(latent["samples"], first) for latent in latents])
    return {**latents[0], "samples": joined, "batch_index": [place for latent in latents for place in places(latent)]}


# Batches


@NODES.add(
    "LatentFromBatch",
    "Get Latent From Batch",
    [
        samples(),
        io.Int.Input(
            "batch_index",
            default=0,
            min=-RESOLUTION_MAX,
            max=RESOLUTION_MAX,
            tooltip="The first one, from 0; negative counts from the end.",
        ),
        io.Int.Input("length", default=1, min=1, max=64, tooltip="How many."),
    ],
    io.Latent,
    category=BATCH,
)
def latent_from_batch(samples: Latent, batch_index: int, length: int) -> Latent:
    """Take some latents of a batch, with the noise that they have in it."""
    tensor = samples["samples"]
    start, count = from_batch(tensor, batch_index, length)
    out = {**samples, "samples": tensor[start : start + count].clone()}
    out["batch_index"] = places(samples)[start : start + count]
    if "noise_mask" in samples:
        mask = samples["noise_mask"]
        if len(mask) > 1:
            mask = (repeat_to_batch_size(mask, len(tensor)) if len(mask) < len(tensor) else mask)[start : start + count]
        out["noise_mask"] = mask.clone()
    return out


@NODES.add(
    "RepeatLatentBatch",
    "Repeat Latent Batch",
    [samples(), io.Int.Input("amount", default=1, min=1, max=64, tooltip="How often the batch is there.")],
    io.Latent,
    category=BATCH,
)
def repeat_latent_batch(samples: Latent, amount: int) -> Latent:
    """Repeat a batch of latents."""
    out = {**samples, "samples": samples["samples"].repeat(amount, *[1] * (samples["samples"].ndim - 1))}
    if len(samples.get("noise_mask", ())) > 1:
        out["noise_mask"] = samples["noise_mask"].repeat(amount, *[1] * (samples["noise_mask"].ndim - 1))
    if "batch_index" in samples:
        at = samples["batch_index"]
        out["batch_index"] = [place + i * (max(at) - min(at) + 1) for i in range(amount) for place in at]
    return out


@NODES.add(
    "LatentBatch",
    "Batch Latents (DEPRECATED)",
    _two(),
    io.Latent,
    category=BATCH,
    is_deprecated=True,
)
def latent_batch(samples1: Latent, samples2: Latent) -> Latent:
    """Make one batch of two."""
    return batched([samples1, samples2])


# Places


@NODES.add(
    "LatentRotate",
    "Rotate Latent",
    [samples(), io.Combo.Input("rotation", options=ROTATIONS, tooltip="How far, to the right.")],
    io.Latent,
    category=TRANSFORM,
)
def latent_rotate(samples: Latent, rotation: str) -> Latent:
    """Turn latents by quarters."""
    return {**samples, "samples": torch.rot90(samples["samples"], ROTATIONS.index(rotation), dims=[3, 2])}


@NODES.add(
    "LatentFlip",
    "Flip Latent",
    [samples(), io.Combo.Input("flip_method", options=FLIPS, tooltip="Upside down, or left to right.")],
    io.Latent,
    category=TRANSFORM,
)
def latent_flip(samples: Latent, flip_method: str) -> Latent:
    """Mirror latents."""
    return {**samples, "samples": samples["samples"].flip(2 + FLIPS.index(flip_method))}


@NODES.add(
    "LatentCrop",
    "Crop Latent",
    [
        samples(),
        pixels("width", "Width in pixels.", min=SMALLEST, step=8),
        pixels("height", "Height in pixels.", min=SMALLEST, step=8),
        pixels("x", "Pixels from the left.", 0, step=8),
        pixels("y", "Pixels from the top.", 0, step=8),
    ],
    io.Latent,
    category=TRANSFORM,
)
def latent_crop(samples: Latent, width: int, height: int, x: int, y: int) -> Latent:
    """Cut a rectangle out of latents; it begins 64 pixels before their end at the latest."""
    tensor, least = samples["samples"], SMALLEST // 8
    x, y = min(x // 8, tensor.shape[3] - least), min(y // 8, tensor.shape[2] - least)
    return {**samples, "samples": tensor[:, :, y : height // 8 + y, x : width // 8 + x]}


@NODES.add(
    "LatentComposite",
    "Latent Composite",
    [
        io.Latent.Input("samples_to", tooltip="The latents below."),
        io.Latent.Input("samples_from", tooltip="The latents laid on them."),
        pixels("x", "Pixels from the left.", 0, step=8),
        pixels("y", "Pixels from the top.", 0, step=8),
        pixels("feather", "How softly the edges go over, in pixels.", 0, step=8),
    ],
    io.Latent,
    category="model/latent",
)
def latent_composite(samples_to: Latent, samples_from: Latent, x: int, y: int, feather: int) -> Latent:
    """Lay latents on others at a place."""
    below, (x, y, feather) = samples_to["samples"], (x // 8, y // 8, feather // 8)
    above = samples_from["samples"][:, :, : below.shape[2] - y, : below.shape[3] - x]
    out = below.clone()
    under = out[:, :, y : y + above.shape[2], x : x + above.shape[3]]
    inside = (y > 0, y + above.shape[2] < below.shape[2], x > 0, x + above.shape[3] < below.shape[3])
    weight = _feathered(above, feather, inside)
    under.copy_(above * weight + under * (1 - weight))
    return {**samples_to, "samples": out}


def _feathered(above: Tensor, feather: int, inside: tuple[bool, bool, bool, bool]) -> Tensor:
    """Return weights like (b, c, h, w) that rise from the edges that lie inside: upper, lower, left and right."""
    weight = torch.ones_like(above)
    for step in range(feather):
        for edge, is_inside in enumerate(inside):
            dim, size = 2 + edge // 2, above.shape[2 + edge // 2]
            at = slice(size - 1 - step, size - step) if edge % 2 else slice(step, step + 1)  # wraps as ComfyUI's
            if is_inside:
                weight.movedim(dim, 0)[at] *= 1.0 / feather * (step + 1)
    return weight


@NODES.add(
    "LatentConcat",
    "LatentConcat",
    [
        *_two(),
        io.Combo.Input("dim", options=["x", "-x", "y", "-y", "t", "-t"], tooltip="Where the second go; - is before."),
    ],
    io.Latent,
)
def latent_concat(samples1: Latent, samples2: Latent, dim: str) -> Latent:
    """Lay latents side by side."""
    first = samples1["samples"]
    parts = [first, repeat_to_batch_size(samples2["samples"], len(first))]
    joined = torch.cat(parts[::-1] if dim.startswith("-") else parts, DIMENSIONS[dim.strip("-")])
    return {**samples1, "samples": joined}


# Numbers


@NODES.add(
    "LatentBlend",
    "Latent Blend",
    [
        *_two(),
        io.Float.Input("blend_factor", default=0.5, min=0, max=1, step=0.01, tooltip="How much of the first."),
    ],
    io.Latent,
    category="experimental",
)
def latent_blend(samples1: Latent, samples2: Latent, blend_factor: float) -> Latent:
    """Blend two latents."""
    first, second = samples1["samples"], samples2["samples"]
    if first.shape != second.shape:
        second = common_upscale(second, first.shape[3], first.shape[2], "bicubic", "center")
    return {**samples1, "samples": first * blend_factor + second * (1 - blend_factor)}


@NODES.add("LatentAdd", "LatentAdd", _two(), io.Latent)
def latent_add(samples1: Latent, samples2: Latent) -> Latent:
    """Add latents."""
    first, second = pair(samples1, samples2)
    return {**samples1, "samples": first + second}


@NODES.add("LatentSubtract", "LatentSubtract", _two(), io.Latent)
def latent_subtract(samples1: Latent, samples2: Latent) -> Latent:
    """Subtract latents from others."""
    first, second = pair(samples1, samples2)
    return {**samples1, "samples": first - second}


@NODES.add(
    "LatentMultiply",
    "LatentMultiply",
    [
        samples(),
        io.Float.Input("multiplier", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="The factor."),
    ],
    io.Latent,
)
def latent_multiply(samples: Latent, multiplier: float) -> Latent:
    """Multiply latents by a number."""
    return {**samples, "samples": samples["samples"] * multiplier}


@NODES.add(
    "LatentInterpolate",
    "LatentInterpolate",
    [
        *_two(),
        io.Float.Input("ratio", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="How much of the first."),
    ],
    io.Latent,
)
def latent_interpolate(samples1: Latent, samples2: Latent, ratio: float) -> Latent:
    """Mix directions and lengths of latents, each by itself.

    As ComfyUI, the length of a pixel's vector is taken from (b, h, w) laid on (b, c, h, w): batches of more than one
    need as many latents as channels.
    """
    first, second = pair(samples1, samples2)
    lengths = [torch.linalg.vector_norm(one, dim=1) for one in (first, second)]
    directions = [torch.nan_to_num(one / length) for one, length in zip((first, second), lengths, strict=True)]
    mixed = directions[0] * ratio + directions[1] * (1.0 - ratio)
    mixed = torch.nan_to_num(mixed / torch.linalg.vector_norm(mixed, dim=1))
    return {**samples1, "samples": mixed * (lengths[0] * ratio + lengths[1] * (1.0 - ratio))}


# Operations


@NODES.add(
    "LatentApplyOperation",
    "LatentApplyOperation",
    [samples(), io.LatentOperation.Input("operation", tooltip="What is done to them.")],
    io.Latent,
    category="model/latent/advanced/operations",
    is_experimental=True,
)
def latent_apply_operation(samples: Latent, operation: Operation) -> Latent:
    """Apply an operation to latents."""
    return {**samples, "samples": operation(latent=samples["samples"])}


@NODES.add(
    "LatentApplyOperationCFG",
    "LatentApplyOperationCFG",
    [
        patched_model(),
        io.LatentOperation.Input("operation", tooltip="What is done."),
    ],
    io.Model,
    category="model/latent/advanced/operations",
    is_experimental=True,
)
def latent_apply_operation_cfg(model: Any, operation: Operation) -> Any:
    """Apply an operation to what the prompts add, in every step."""

    def before_guidance(args: dict[str, Any]) -> list[Tensor]:
        cond, *rest = args["conds_out"]
        changed = operation(latent=cond - rest[0]) + rest[0] if len(rest) == 1 else operation(latent=cond)
        return [changed, *rest]

    model = model.clone()
    model.set_model_sampler_pre_cfg_function(before_guidance)
    return model


@NODES.add(
    "LatentOperationTonemapReinhard",
    "LatentOperationTonemapReinhard",
    [io.Float.Input("multiplier", default=1.0, min=0.0, max=100.0, step=0.01, tooltip="How long vectors may get.")],
    io.LatentOperation,
    category="model/latent/advanced/operations",
    is_experimental=True,
)
def latent_operation_tonemap_reinhard(multiplier: float) -> Operation:
    """Shorten long vectors of latents (Reinhard et al., 2002)."""

    def tonemap(latent: Tensor, **others: Any) -> Tensor:
        length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-10
        dims = list(range(1, length.ndim))
        top = (length.std(dims, keepdim=True) * 5 + length.mean(dims, keepdim=True)) * multiplier
        share = length / top
        return latent / length * (share / (share + 1.0) * top)

    return tonemap


@NODES.add(
    "LatentOperationSharpen",
    "LatentOperationSharpen",
    [
        io.Int.Input("sharpen_radius", default=9, min=1, max=31, step=1, advanced=True, tooltip="How far around."),
        io.Float.Input("sigma", default=1.0, min=0.1, max=10.0, step=0.1, advanced=True, tooltip="Width of the bell."),
        io.Float.Input("alpha", default=0.1, min=0.0, max=5.0, step=0.01, advanced=True, tooltip="How strongly."),
    ],
    io.LatentOperation,
    category="model/latent/advanced/operations",
    is_experimental=True,
)
def latent_operation_sharpen(sharpen_radius: int, sigma: float, alpha: float) -> Operation:
    """Sharpen the directions of latents."""

    def sharpen(latent: Tensor, **others: Any) -> Tensor:
        length = torch.linalg.vector_norm(latent, dim=1, keepdim=True) + 1e-6
        return length * convolved(latent / length, sharpening_kernel(2 * sharpen_radius + 1, sigma, alpha))

    return sharpen
