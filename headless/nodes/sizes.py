"""ComfyUI's core nodes that give pictures another size, for the embedded host. They need Pillow."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...ldm_patched.sampling.upscale import centred, common_upscale
from ..api import comfy_io as io
from .conditioning import RESOLUTION_MAX
from .declared import Nodes

NODES = Nodes("image/upscaling")
METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
CROPS = ("disabled", "center")
MEGA = 1024 * 1024


def image() -> io.Input:
    """Return the input of a picture."""
    return io.Image.Input("image", tooltip="The pictures.")


def method(name: str = "upscale_method", options: tuple[str, ...] = METHODS, **settings: object) -> io.Input:
    """Return the input of a way to interpolate."""
    return io.Combo.Input(name, options=options, tooltip="How pixels are interpolated.", **settings)


def pixels(name: str, tooltip: str, default: int = 512, min: int = 0, step: int = 1) -> io.Input:
    """Return the input of a number of pixels."""
    return io.Int.Input(name, default=default, min=min, max=RESOLUTION_MAX, step=step, tooltip=tooltip)


def resized(pictures: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """Resize pictures (b, h, w, c); crop "center" first cuts them to the new aspect ratio."""
    samples = pictures.movedim(-1, 1)
    if method == "lanczos":
        samples = centred(samples, width / height) if crop == "center" else samples
        return lanczos(samples.movedim(1, -1), width, height)
    return common_upscale(samples, width, height, method, crop).movedim(1, -1)


def lanczos(pictures: Tensor, width: int, height: int) -> Tensor:
    """Resize pictures (b, h, w, c) by Pillow, which knows 256 levels."""
    levels = np.clip(255.0 * pictures.cpu().numpy(), 0, 255).astype(np.uint8)
    single = pictures.shape[-1] == 1
    frames = [Image.fromarray(frame[..., 0] if single else frame) for frame in levels]
    sized = np.stack([np.asarray(frame.resize((width, height), Image.Resampling.LANCZOS)) for frame in frames])
    found = torch.from_numpy(sized.astype(np.float32) / 255.0).to(pictures)
    return found.unsqueeze(-1) if single else found


def other_side(side: int, of: int, other: int) -> int:
    """Return how long a side gets when the other one, `of` long, becomes `other` long."""
    return max(1, round(side * other / of))


def within(width: int, height: int, side: int, shorter: bool = False) -> tuple[int, int]:
    """Return the size in which the longer side, or the shorter one, has a length."""
    if width == height:
        return side, side
    if (height > width) != shorter:
        return round((width / height) * side), side
    return side, round((height / width) * side)


@NODES.add(
    "ImageScale",
    "Upscale Image",
    [
        image(),
        method(),
        pixels("width", "Width in pixels; 0 keeps the aspect ratio."),
        pixels("height", "Height in pixels; 0 keeps the aspect ratio."),
        io.Combo.Input("crop", options=CROPS, tooltip="Whether pictures are stretched or cut to another aspect ratio."),
    ],
    io.Image,
)
def image_scale(image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> Tensor:
    """Resize pictures to a size in pixels."""
    if width == height == 0:
        return image
    rows, columns = image.shape[1:3]
    width, height = width or other_side(columns, rows, height), height or other_side(rows, columns, width)
    return resized(image, width, height, upscale_method, crop)


@NODES.add(
    "ImageScaleBy",
    "Upscale Image By",
    [
        image(),
        method(),
        io.Float.Input("scale_by", default=1.0, min=0.01, max=8.0, step=0.01, tooltip="The factor."),
    ],
    io.Image,
)
def image_scale_by(image: Tensor, upscale_method: str, scale_by: float) -> Tensor:
    """Resize pictures by a factor."""
    rows, columns = image.shape[1:3]
    return resized(image, round(columns * scale_by), round(rows * scale_by), upscale_method)


@NODES.add(
    "ImageScaleToTotalPixels",
    "Scale Image to Total Pixels",
    [
        image(),
        method(),
        io.Float.Input("megapixels", default=1.0, min=0.01, max=16.0, step=0.01, tooltip="Of 1024 x 1024 pixels each."),
        io.Int.Input(
            "resolution_steps", default=1, min=1, max=256, advanced=True, tooltip="What both sides are multiples of."
        ),
    ],
    io.Image,
)
def image_scale_to_total_pixels(image: Tensor, upscale_method: str, megapixels: float, resolution_steps: int) -> Tensor:
    """Resize pictures to a number of pixels."""
    rows, columns = image.shape[1:3]
    factor = math.sqrt(megapixels * MEGA / (columns * rows))
    width, height = (round(side * factor / resolution_steps) * resolution_steps for side in (columns, rows))
    return resized(image, width, height, upscale_method)


@NODES.add(
    "ImageScaleToMaxDimension",
    "Scale Image to Max Dimension",
    [
        image(),
        method(options=("area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic")),
        pixels("largest_size", "The longer side in pixels."),
    ],
    io.Image,
)
def image_scale_to_max_dimension(image: Tensor, upscale_method: str, largest_size: int) -> Tensor:
    """Resize pictures so that the longer side has a length."""
    rows, columns = image.shape[1:3]
    return resized(image, *within(columns, rows, largest_size), upscale_method)


@NODES.add(
    "ResizeAndPadImage",
    "Resize And Pad Image",
    [
        image(),
        pixels("target_width", "Width in pixels.", min=1),
        pixels("target_height", "Height in pixels.", min=1),
        io.Combo.Input("padding_color", options=["white", "black"], advanced=True, tooltip="The colour around them."),
        method("interpolation", ("area", "bicubic", "nearest-exact", "bilinear", "lanczos"), advanced=True),
    ],
    io.Image,
    category="image/transform",
)
def resize_and_pad_image(
    image: Tensor, target_width: int, target_height: int, padding_color: str, interpolation: str
) -> Tensor:
    """Resize pictures into a size, with a margin where they have another aspect ratio."""
    rows, columns = image.shape[1:3]
    factor = min(target_width / columns, target_height / rows)
    width, height = int(columns * factor), int(rows * factor)
    colour = 0.0 if padding_color == "black" else 1.0
    out = image.new_full((len(image), target_height, target_width, image.shape[-1]), colour)
    y, x = (target_height - height) // 2, (target_width - width) // 2
    out[:, y : y + height, x : x + width] = resized(image, width, height, interpolation)
    return out


@NODES.add(
    "ResizeImagesByLongerEdge",
    "Resize Images by Longer Edge (DEPRECATED)",
    [
        io.Image.Input("images", tooltip="The pictures."),
        io.Int.Input("longer_edge", default=1024, min=1, max=8192, tooltip="The longer side in pixels."),
    ],
    io.Image.Output(display_name="images"),
    category="image/transform",
    is_deprecated=True,
    is_experimental=True,
)
def resize_images_by_longer_edge(images: Tensor, longer_edge: int) -> Tensor:
    """Resize pictures so that the longer side has a length."""
    rows, columns = images.shape[1:3]
    if columns > rows:
        return lanczos(images, longer_edge, int(rows * (longer_edge / columns)))
    return lanczos(images, int(columns * (longer_edge / rows)), longer_edge)
