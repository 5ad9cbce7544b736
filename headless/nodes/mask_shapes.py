"""ComfyUI's core nodes that change masks and turn them into pictures and back, for the embedded host."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..api import comfy_io as io
from ..api.session import current
from .conditioning import RESOLUTION_MAX
from .declared import Nodes
from .image import metadata, save
from .sizes import image, pixels

NODES = Nodes("image/mask")
CHANNELS = ("red", "green", "blue", "alpha")


def _mask() -> io.Input:
    return io.Mask.Input("mask", tooltip="The mask.")


def flat(mask: Tensor) -> Tensor:
    """Return a mask as (b, h, w)."""
    return mask.reshape(-1, *mask.shape[-2:])


@NODES.add("MaskToImage", "Convert Mask to Image", [_mask()], io.Image)
def mask_to_image(mask: Tensor) -> Tensor:
    """Make grey pictures of masks."""
    return flat(mask).unsqueeze(-1).expand(-1, -1, -1, 3)


@NODES.add(
    "ImageToMask",
    "Convert Image to Mask",
    [image(), io.Combo.Input("channel", options=CHANNELS, tooltip="What becomes the mask.")],
    io.Mask,
)
def image_to_mask(image: Tensor, channel: str) -> Tensor:
    """Make masks of one colour channel of pictures."""
    return image[..., CHANNELS.index(channel)]


@NODES.add(
    "ImageColorToMask",
    "Convert Image Color to Mask",
    [
        image(),
        io.Int.Input(
            "color",
            default=0,
            min=0,
            max=0xFFFFFF,
            step=1,
            display_mode=io.NumberDisplay.number,
            tooltip="The colour, as 65536 red + 256 green + blue.",
        ),
    ],
    io.Mask,
)
def image_color_to_mask(image: Tensor, color: int) -> Tensor:
    """Make masks of the pixels that have a colour."""
    red, green, blue = (image.clamp(0, 1.0) * 255.0).round().int()[..., :3].unbind(-1)
    return (red * 65536 + green * 256 + blue == color).float()


@NODES.add(
    "CropMask",
    "Crop Mask",
    [
        _mask(),
        pixels("x", "Pixels from the left.", 0),
        pixels("y", "Pixels from the top.", 0),
        pixels("width", "Width in pixels.", min=1),
        pixels("height", "Height in pixels.", min=1),
    ],
    io.Mask,
)
def crop_mask(mask: Tensor, x: int, y: int, width: int, height: int) -> Tensor:
    """Cut a rectangle out of masks."""
    return flat(mask)[:, y : y + height, x : x + width]


@NODES.add(
    "FeatherMask",
    "Feather Mask",
    [_mask(), *(pixels(side, "How far it fades there, in pixels.", 0) for side in ("left", "top", "right", "bottom"))],
    io.Mask,
)
def feather_mask(mask: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
    """Let masks fade towards the edges of the picture."""
    out = flat(mask)
    rows, columns = out.shape[1:]
    across = _fade(columns, left) * _fade(columns, right).flip(0)
    return out * across * (_fade(rows, top) * _fade(rows, bottom).flip(0)).unsqueeze(1)


def _fade(length: int, over: int) -> Tensor:
    """Return weights (length,) that rise to 1 over the first ones."""
    over = min(over, length)
    return torch.cat([torch.arange(1, over + 1) / max(over, 1), torch.ones(length - over)])


@NODES.add(
    "GrowMask",
    "Grow Mask",
    [
        _mask(),
        pixels("expand", "By how many pixels; negative shrinks it.", 0, min=-RESOLUTION_MAX),
        io.Boolean.Input("tapered_corners", default=True, advanced=True, tooltip="Grow less towards the corners."),
    ],
    io.Mask,
)
def grow_mask(mask: Tensor, expand: int, tapered_corners: bool) -> Tensor:
    """Grow masks, or shrink them."""
    out = flat(mask).unsqueeze(1) * (1 if expand > 0 else -1)
    for _ in range(min(abs(expand), sum(out.shape[-2:]))):  # then nothing changes any more
        out = _cross(out) if tapered_corners else _largest(out, 3, 3)
    return out.squeeze(1) * (1 if expand > 0 else -1)


def _cross(samples: Tensor) -> Tensor:
    return torch.maximum(_largest(samples, 3, 1), _largest(samples, 1, 3))


def _largest(samples: Tensor, rows: int, columns: int) -> Tensor:
    """Return the largest of (b, 1, h, w) around each place; what lies outside does not count."""
    return F.max_pool2d(samples, (rows, columns), 1, (rows // 2, columns // 2))


@NODES.add(
    "ThresholdMask",
    "Threshold Mask",
    [_mask(), io.Float.Input("value", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Above this it becomes 1.")],
    io.Mask,
)
def threshold_mask(mask: Tensor, value: float) -> Tensor:
    """Make masks of zeros and ones."""
    return (mask > value).float()


@NODES.add(
    "MaskPreview",
    "Preview Mask",
    [_mask()],
    io.Mask.Output(display_name="mask"),
    is_output_node=True,
)
def mask_preview(mask: Tensor) -> io.NodeOutput:
    """Save masks to the temporary folder."""
    folder = current().folders.temp
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pictures = flat(mask).unsqueeze(-1).expand(-1, -1, -1, 3)
    return io.NodeOutput(mask, ui={"images": save(pictures, folder, "ComfyUI_temp", "temp", metadata(None))})
