"""ComfyUI's core nodes that lay pictures and latents on others, and take transparency apart, for the embedded host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ldm_patched.sampling.conds import repeat_to_batch_size
from ...ldm_patched.sampling.upscale import common_upscale
from ..api import comfy_io as io
from .declared import Nodes
from .filters import with_channels
from .sizes import image, pixels

NODES = Nodes("image/compositing")
Layers = tuple[Tensor, Tensor, Tensor, Tensor]  # source and its alpha, destination and its alpha
Mixed = tuple[Tensor, Tensor]  # alpha, picture
NEARLY_CLEAR = 1e-5


def _overlay(s: Tensor, a: Tensor, d: Tensor, b: Tensor) -> Mixed:
    return a + b - a * b, torch.where(2 * d < b, 2 * s * d, a * b - 2 * (b - s) * (a - d))


# Porter and Duff (1984), of pictures multiplied with their alpha
DUFF: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Mixed]] = {
    "ADD": lambda s, a, d, b: ((a + b).clamp(0, 1), (s + d).clamp(0, 1)),
    "CLEAR": lambda s, a, d, b: (torch.zeros_like(b), torch.zeros_like(d)),
    "DARKEN": lambda s, a, d, b: (a + b - a * b, (1 - b) * s + (1 - a) * d + torch.min(s, d)),
    "DST": lambda s, a, d, b: (b, d),
    "DST_ATOP": lambda s, a, d, b: (a, a * d + (1 - b) * s),
    "DST_IN": lambda s, a, d, b: (a * b, d * a),
    "DST_OUT": lambda s, a, d, b: ((1 - a) * b, (1 - a) * d),
    "DST_OVER": lambda s, a, d, b: (b + (1 - b) * a, d + (1 - b) * s),
    "LIGHTEN": lambda s, a, d, b: (a + b - a * b, (1 - b) * s + (1 - a) * d + torch.max(s, d)),
    "MULTIPLY": lambda s, a, d, b: (a * b, s * d),
    "OVERLAY": _overlay,
    "SCREEN": lambda s, a, d, b: (a + b - a * b, s + d - s * d),
    "SRC": lambda s, a, d, b: (a, s),
    "SRC_ATOP": lambda s, a, d, b: (b, b * s + (1 - a) * d),
    "SRC_IN": lambda s, a, d, b: (a * b, s * b),
    "SRC_OUT": lambda s, a, d, b: ((1 - b) * a, (1 - b) * s),
    "SRC_OVER": lambda s, a, d, b: (a + (1 - a) * b, s + (1 - a) * d),
    "XOR": lambda s, a, d, b: ((1 - b) * a + (1 - a) * b, (1 - b) * s + (1 - a) * d),
}


def laid_on(below: Tensor, above: Tensor, x: int, y: int, mask: Tensor | None, unit: int, resize: bool) -> Tensor:
    """Return (b, c, h, w) with another one on it at a place, where a mask (b, h, w) is 1; `unit` places to a pixel."""
    height, width = below.shape[-2:]
    above = F.interpolate(above, size=(height, width), mode="bilinear") if resize else above
    above = repeat_to_batch_size(above, len(below))
    x = max(-above.shape[-1] * unit, min(x, width * unit))
    y = max(-above.shape[-2] * unit, min(y, height * unit))
    left, top = x // unit, y // unit
    under = below[..., top : top + above.shape[-2], left : left + above.shape[-1]]
    seen = above[..., : height - top, : width - left]
    weight = torch.ones_like(seen)
    if mask is not None:
        mask = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), size=above.shape[-2:], mode="bilinear")
        weight = repeat_to_batch_size(mask, len(above))[..., : height - top, : width - left]
    out = below.clone()
    out[..., top : top + above.shape[-2], left : left + above.shape[-1]] = weight * seen + (1 - weight) * under
    return out


def _layers(kind: Any, step: int) -> list[io.Input]:
    return [
        kind.Input("destination", tooltip="What lies below."),
        kind.Input("source", tooltip="What is laid on it."),
        pixels("x", "Pixels from the left.", 0, step=step),
        pixels("y", "Pixels from the top.", 0, step=step),
        io.Boolean.Input("resize_source", default=False, tooltip="Give it the size of what lies below."),
        io.Mask.Input("mask", optional=True, tooltip="1 where it covers what lies below; none covers it all."),
    ]


@NODES.add("ImageCompositeMasked", "Image Composite Masked", _layers(io.Image, 1), io.Image)
def image_composite_masked(
    destination: Tensor, source: Tensor, x: int, y: int, resize_source: bool, mask: Tensor | None = None
) -> Tensor:
    """Lay pictures on others at a place, within a mask."""
    above = with_channels(source, destination.shape[-1]).movedim(-1, 1)
    return laid_on(destination.movedim(-1, 1), above, x, y, mask, 1, resize_source).movedim(1, -1)


@NODES.add(
    "LatentCompositeMasked", "Latent Composite Masked", _layers(io.Latent, 8), io.Latent, category="model/latent"
)
def latent_composite_masked(
    destination: dict[str, Any],
    source: dict[str, Any],
    x: int,
    y: int,
    resize_source: bool,
    mask: Tensor | None = None,
) -> dict[str, Any]:
    """Lay latents on others at a place, within a mask."""
    samples = laid_on(destination["samples"], source["samples"], x, y, mask, 8, resize_source)
    return {**destination, "samples": samples}


@NODES.add("SplitImageWithAlpha", "Split Image with Alpha", [image()], io.Image, io.Mask)
def split_image_with_alpha(image: Tensor) -> tuple[Tensor, Tensor]:
    """Take the colours and the transparency of pictures apart."""
    alpha = image[..., 3] if image.shape[-1] > 3 else torch.ones_like(image[..., 0])
    return image[..., :3], 1.0 - alpha


@NODES.add(
    "JoinImageWithAlpha",
    "Join Image with Alpha",
    [image(), io.Mask.Input("alpha", tooltip="1 where they become transparent.")],
    io.Image,
)
def join_image_with_alpha(image: Tensor, alpha: Tensor) -> Tensor:
    """Make pictures transparent where a mask is."""
    batch = max(len(image), len(alpha))
    alpha = F.interpolate(alpha.to(image).reshape(-1, 1, *alpha.shape[-2:]), size=image.shape[1:3], mode="bilinear")
    parts = (image[..., :3], 1.0 - alpha.movedim(1, -1))
    return torch.cat([repeat_to_batch_size(part, batch) for part in parts], -1)


@NODES.add(
    "PorterDuffImageComposite",
    "Porter-Duff Image Composite",
    [
        io.Image.Input("source", tooltip="The pictures on top."),
        io.Mask.Input("source_alpha", tooltip="1 where they are transparent."),
        io.Image.Input("destination", tooltip="The pictures below."),
        io.Mask.Input("destination_alpha", tooltip="1 where they are transparent."),
        io.Combo.Input("mode", options=list(DUFF), default="DST", tooltip="How the two are combined."),
    ],
    io.Image,
    io.Mask,
)
def porter_duff_image_composite(
    source: Tensor, source_alpha: Tensor, destination: Tensor, destination_alpha: Tensor, mode: str
) -> tuple[Tensor, Tensor]:
    """Lay transparent pictures on others."""
    given = (source, source_alpha.unsqueeze(-1), destination, destination_alpha.unsqueeze(-1))
    batch, size = min(map(len, given)), destination.shape[1:3]
    s, a, d, b = (_sized(part[:batch].movedim(-1, 1), *size) for part in given)
    a, b = 1 - a, 1 - b
    alpha, mixed = DUFF[mode](s * a, a, d * b, b)
    picture = torch.where(alpha > NEARLY_CLEAR, mixed / alpha, 0.0).clamp(0, 1)
    return picture.movedim(1, -1), 1 - alpha.squeeze(1)


def _sized(samples: Tensor, height: int, width: int) -> Tensor:
    same = samples.shape[-2:] == (height, width)
    return samples if same else common_upscale(samples, width, height, "bicubic", "center")
