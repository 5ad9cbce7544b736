"""ComfyUI's core nodes whose inputs depend on others: batches of any number, ways to resize, for the embedded host."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..api import comfy_io as io
from ..api.dynamic_io import Autogrow, DynamicCombo, MatchType
from .declared import Nodes
from .image_parts import joined, joined_masks
from .latent_changes import Latent, batched
from .sizes import CROPS, MEGA, METHODS, method, other_side, pixels, resized, within

NODES = Nodes("image/batch")
Option = DynamicCombo.Option


def _growing(kind: Any, name: str) -> list[io.Input]:
    template = Autogrow.TemplatePrefix(kind.Input(name, tooltip="Some of them."), name, min=1, max=50)
    return [Autogrow.Input(f"{name}s", template, tooltip="Any number of them.")]


@NODES.add("BatchImagesNode", "Batch Images", _growing(io.Image, "image"), io.Image)
def batch_images(images: Mapping[str, Tensor]) -> Tensor:
    """Make one batch of pictures, all of the size of the first."""
    return joined(list(images.values()))


@NODES.add("BatchMasksNode", "Batch Masks", _growing(io.Mask, "mask"), io.Mask, category="image/mask")
def batch_masks(masks: Mapping[str, Tensor]) -> Tensor:
    """Make one batch of masks, all of the size of the first."""
    return joined_masks(list(masks.values()))


@NODES.add("BatchLatentsNode", "Batch Latents", _growing(io.Latent, "latent"), io.Latent, category="model/latent/batch")
def batch_latents(latents: Mapping[str, Latent]) -> Latent:
    """Make one batch of latents, all of the size of the first."""
    return batched(list(latents.values()))


# Sizes

INPUT = MatchType.Template("input_type", [io.Image, io.Mask])


def _crop() -> io.Input:
    return io.Combo.Input("crop", options=CROPS, default="center", tooltip="Whether they are stretched or cut.")


def _types() -> list[Option]:
    return [
        Option("scale dimensions", [
            pixels("width", "Width in pixels; 0 keeps the aspect ratio."),
            pixels("height", "Height in pixels; 0 keeps the aspect ratio."),
            _crop(),
        ]),
        Option("scale by multiplier", [
            io.Float.Input("multiplier", default=1.0, min=0.01, max=8.0, step=0.01, tooltip="The factor."),
        ]),
        Option("scale longer dimension", [pixels("longer_size", "The longer side in pixels.")]),
        Option("scale shorter dimension", [pixels("shorter_size", "The shorter side in pixels.")]),
        Option("scale width", [pixels("width", "Width in pixels.")]),
        Option("scale height", [pixels("height", "Height in pixels.")]),
        Option("scale total pixels", [
            io.Float.Input("megapixels", default=1.0, min=0.01, max=16.0, step=0.01, tooltip="Of 1024 x 1024 pixels."),
        ]),
        Option("match size", [io.Custom("IMAGE,MASK").Input("match", tooltip="What has the size."), _crop()]),
        Option("scale to multiple", [pixels("multiple", "What both sides are multiples of.", 8, min=1)]),
    ]  # fmt: skip


@NODES.add(
    "ResizeImageMaskNode",
    "Resize Image/Mask",
    [
        MatchType.Input("input", INPUT, tooltip="The pictures or masks."),
        DynamicCombo.Input("resize_type", _types(), tooltip="What the new size is told by."),
        method("scale_method", METHODS, default="area"),
    ],
    MatchType.Output(display_name="resized"),
    category="image/transform",
)
def resize_image_mask(input: Tensor, resize_type: Mapping[str, Any], scale_method: str) -> Tensor:
    """Resize pictures or masks."""
    is_mask = input.ndim == 3
    pictures = input.unsqueeze(-1) if is_mask else input
    if resize_type["resize_type"] == "scale to multiple":
        out = _cut_to_multiple(pictures, resize_type["multiple"], scale_method)
    else:
        size = _size(pictures.shape[2], pictures.shape[1], **resize_type)
        crop = resize_type.get("crop", "disabled")
        out = pictures if size == (0, 0) else resized(pictures, *size, scale_method, crop)
    return out.squeeze(-1) if is_mask else out


def _size(columns: int, rows: int, resize_type: str, **given: Any) -> tuple[int, int]:
    """Return the new size of (columns, rows); (0, 0) leaves it."""
    if resize_type == "scale by multiplier":
        return round(columns * given["multiplier"]), round(rows * given["multiplier"])
    if resize_type == "scale total pixels":
        factor = math.sqrt(int(given["megapixels"] * MEGA) / (columns * rows))
        return round(columns * factor), round(rows * factor)
    if resize_type == "match size":
        return given["match"].shape[2], given["match"].shape[1]
    if resize_type == "scale longer dimension":
        return within(columns, rows, given["longer_size"])
    if resize_type == "scale shorter dimension":
        return within(columns, rows, given["shorter_size"], shorter=True)
    width, height = given.get("width", 0), given.get("height", 0)
    if width == height == 0:
        return 0, 0
    return width or other_side(columns, rows, height), height or other_side(rows, columns, width)


def _cut_to_multiple(pictures: Tensor, multiple: int, method: str) -> Tensor:
    """Make both sides multiples of a number, with as little cut off as can be."""
    rows, columns = pictures.shape[1:3]
    width, height = columns // multiple * multiple, rows // multiple * multiple
    if multiple <= 1 or 0 in (width, height) or (width, height) == (columns, rows):
        return pictures
    across, down = width / columns, height / rows
    wide = width if across >= down else max(width, math.ceil(columns * down))
    high = height if across < down else max(height, math.ceil(rows * across))
    x, y = (wide - width) // 2, (high - height) // 2
    return resized(pictures, wide, high, method)[:, y : y + height, x : x + width]
