"""ComfyUI's core nodes that cut, turn, pad and join pictures, for the embedded host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ldm_patched.sampling.upscale import common_upscale
from ..api import comfy_io as io
from .conditioning import RESOLUTION_MAX
from .declared import Nodes
from .sizes import image, pixels, resized

NODES = Nodes("image/transform")
ROTATIONS = ("none", "90 degrees", "180 degrees", "270 degrees")
FLIPS = ("x-axis: vertically", "y-axis: horizontally")
COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}


def from_batch(tensor: Tensor, start: int, length: int) -> tuple[int, int]:
    """Return first place and number of the entries of a batch that were asked for, of which there is one at least."""
    batch = len(tensor)
    start = max(0, min(batch - 1, start + batch if start < 0 else start))
    return start, min(batch - start, length)


def opaque(picture: Tensor, channels: int) -> Tensor:
    """Give pictures (b, h, w, c) more channels, of ones."""
    return F.pad(picture, (0, channels - picture.shape[-1]), value=1.0)


def joined(pictures: Sequence[Tensor]) -> Tensor:
    """Return pictures as one batch, all of the size of the first and with the channels of the richest."""
    channels = max(picture.shape[-1] for picture in pictures)
    full = [opaque(picture, channels) if picture.shape[-1] < channels else picture for picture in pictures]
    height, width = full[0].shape[1:3]
    return torch.cat(
        [
            one if one.shape[1:3] == (height, width) else resized(one, width, height, "bilinear", "center")
            for one in full
        ]
    )


@NODES.add(
    "ImageCrop",
    "Crop Image (DEPRECATED)",
    [
        image(),
        pixels("width", "Width in pixels.", min=1),
        pixels("height", "Height in pixels.", min=1),
        pixels("x", "Pixels from the left.", 0),
        pixels("y", "Pixels from the top.", 0),
    ],
    io.Image,
    is_deprecated=True,
)
def image_crop(image: Tensor, width: int, height: int, x: int, y: int) -> Tensor:
    """Cut a rectangle out of pictures."""
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, y : y + height, x : x + width]


@NODES.add(
    "ImageRotate",
    "Rotate Image",
    [image(), io.Combo.Input("rotation", options=ROTATIONS, tooltip="How far, to the right.")],
    io.Image,
)
def image_rotate(image: Tensor, rotation: str) -> Tensor:
    """Turn pictures by quarters."""
    return torch.rot90(image, ROTATIONS.index(rotation), dims=[2, 1])


@NODES.add(
    "ImageFlip",
    "Flip Image",
    [image(), io.Combo.Input("flip_method", options=FLIPS, tooltip="Upside down, or left to right.")],
    io.Image,
)
def image_flip(image: Tensor, flip_method: str) -> Tensor:
    """Mirror pictures."""
    return image.flip(1 + FLIPS.index(flip_method))


@NODES.add(
    "ImagePadForOutpaint",
    "Pad Image for Outpainting",
    [
        image(),
        *(
            pixels(side, f"Pixels that are added {where}.", 0, step=8)
            for side, where in (
                ("left", "at the left"),
                ("top", "above"),
                ("right", "at the right"),
                ("bottom", "below"),
            )
        ),
        io.Int.Input(
            "feathering",
            default=40,
            min=0,
            max=RESOLUTION_MAX,
            step=1,
            advanced=True,
            tooltip="How far the mask reaches softly into the picture, in pixels.",
        ),
    ],
    io.Image,
    io.Mask,
)
def image_pad_for_outpaint(
    image: Tensor, left: int, top: int, right: int, bottom: int, feathering: int
) -> tuple[Tensor, Tensor]:
    """Put a grey margin around pictures, and make the mask of it."""
    rows, columns = image.shape[1:3]
    inside = torch.zeros(rows, columns)
    if feathering > 0 and feathering * 2 < min(rows, columns):
        near = _distance(rows, columns, (left, top, right, bottom)).clamp(max=feathering)
        inside = ((feathering - near) / feathering) ** 2
    grown = (len(image), rows + top + bottom, columns + left + right, image.shape[-1])
    picture, mask = torch.full(grown, 0.5), torch.ones(grown[1:3])
    picture[:, top : top + rows, left : left + columns] = image
    mask[top : top + rows, left : left + columns] = inside
    return picture, mask.unsqueeze(0)


def _distance(rows: int, columns: int, sides: tuple[int, int, int, int]) -> Tensor:
    """Return for each pixel (rows, columns) how far the nearest side is at which something is added."""
    left, top, right, bottom = sides
    y, x = torch.arange(rows).unsqueeze(1), torch.arange(columns).unsqueeze(0)
    far_y, far_x = torch.full((rows, 1), rows), torch.full((1, columns), columns)
    vertical = torch.minimum(y if top else far_y, rows - y if bottom else far_y)
    horizontal = torch.minimum(x if left else far_x, columns - x if right else far_x)
    return torch.minimum(vertical, horizontal).float()


@NODES.add(
    "ImageInvert",
    "Invert Image Colors",
    [image()],
    io.Image,
    category="image/color",
)
def image_invert(image: Tensor) -> Tensor:
    """Turn the colours of pictures into their opposite."""
    return 1.0 - image


@NODES.add(
    "ImageBatch",
    "Batch Images (DEPRECATED)",
    [
        io.Image.Input("image1", tooltip="The first pictures, whose size the others get."),
        io.Image.Input("image2", tooltip="The pictures after them."),
    ],
    io.Image,
    category="image/batch",
    is_deprecated=True,
)
def image_batch(image1: Tensor, image2: Tensor) -> Tensor:
    """Make one batch of two."""
    return joined([image1, image2])


@NODES.add(
    "EmptyImage",
    "Empty Image",
    [
        pixels("width", "Width in pixels.", min=1),
        pixels("height", "Height in pixels.", min=1),
        io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="The number of pictures."),
        io.Int.Input(
            "color",
            default=0,
            min=0,
            max=0xFFFFFF,
            step=1,
            extra_dict={"display": "color"},
            tooltip="The colour, as 65536 red + 256 green + blue.",
        ),
    ],
    io.Image,
    category="image",
)
def empty_image(width: int, height: int, batch_size: int, color: int) -> Tensor:
    """Make pictures of one colour."""
    channels = torch.tensor([(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)])
    return channels.repeat(batch_size, height, width, 1)


@NODES.add(
    "RepeatImageBatch",
    "Repeat Image Batch",
    [image(), io.Int.Input("amount", default=1, min=1, max=4096, tooltip="How often the batch is there.")],
    io.Image,
    category="image/batch",
)
def repeat_image_batch(image: Tensor, amount: int) -> Tensor:
    """Repeat a batch of pictures."""
    return image.repeat(amount, 1, 1, 1)


@NODES.add(
    "ImageFromBatch",
    "Get Image from Batch",
    [
        image(),
        io.Int.Input(
            "batch_index",
            default=0,
            min=-RESOLUTION_MAX,
            max=RESOLUTION_MAX,
            tooltip="The first one, from 0; negative counts from the end.",
        ),
        io.Int.Input("length", default=1, min=1, max=4096, tooltip="How many."),
    ],
    io.Image,
    category="image/batch",
)
def image_from_batch(image: Tensor, batch_index: int, length: int) -> Tensor:
    """Take some pictures of a batch."""
    start, count = from_batch(image, batch_index, length)
    return image[start : start + count].clone()


@NODES.add(
    "GetImageSize",
    "Get Image Size",
    [image()],
    io.Int.Output(display_name="width"),
    io.Int.Output(display_name="height"),
    io.Int.Output(display_name="batch_size"),
    category="image",
)
def get_image_size(image: Tensor) -> tuple[int, int, int]:
    """Tell width, height and number of pictures."""
    return image.shape[2], image.shape[1], image.shape[0]


@NODES.add(
    "ImageStitch",
    "Stitch Images",
    [
        io.Image.Input("image1", tooltip="The first pictures."),
        io.Combo.Input(
            "direction", options=["right", "down", "left", "up"], default="right", tooltip="Where the others go."
        ),
        io.Boolean.Input("match_image_size", default=True, tooltip="Resize the others, else a margin fills the rest."),
        io.Int.Input(
            "spacing_width", default=0, min=0, max=1024, step=2, advanced=True, tooltip="Pixels between the two."
        ),
        io.Combo.Input(
            "spacing_color", options=list(COLOURS), default="white", advanced=True, tooltip="The colour between them."
        ),
        io.Image.Input("image2", optional=True, tooltip="The pictures beside them; none leaves the first alone."),
    ],
    io.Image,
)
def image_stitch(
    image1: Tensor,
    direction: str,
    match_image_size: bool,
    spacing_width: int,
    spacing_color: str,
    image2: Tensor | None = None,
) -> Tensor:
    """Lay pictures side by side."""
    if image2 is None:
        return image1
    batch = max(len(image1), len(image2))
    first, second = (torch.cat([one, one[-1:].repeat(batch - len(one), 1, 1, 1)]) for one in (image1, image2))
    along = 2 if direction in ("left", "right") else 1
    if match_image_size:
        second = _matched(first, second, along)
    else:
        grey = COLOURS[spacing_color][0] if spacing_color in ("white", "black") else 0.0
        first, second = _margins(first, second, 3 - along, grey), _margins(second, first, 3 - along, grey)
    channels = max(first.shape[-1], second.shape[-1])
    parts = [opaque(one, channels) for one in (first, second)][:: -1 if direction in ("left", "up") else 1]
    if spacing_width > 0:
        parts.insert(1, _gap(parts, along, spacing_width + spacing_width % 2, spacing_color))
    return torch.cat(parts, along)


def _matched(first: Tensor, second: Tensor, along: int) -> Tensor:
    """Resize pictures so that they fit beside others along a dimension."""
    (height, width), aspect = first.shape[1:3], second.shape[2] / second.shape[1]
    size = (int(height * aspect), height) if along == 2 else (width, int(width / aspect))
    return resized(second, *size, "lanczos")


def _margins(picture: Tensor, other: Tensor, dim: int, value: float) -> Tensor:
    """Fill pictures up on both sides of a dimension, to the length of others."""
    missing = max(0, other.shape[dim] - picture.shape[dim])
    ends = (missing // 2, missing - missing // 2)
    return F.pad(picture, (0, 0, *ends) if dim == 2 else (0, 0, 0, 0, *ends), value=value)


def _gap(parts: Sequence[Tensor], along: int, length: int, colour: str) -> Tensor:
    shape = [max(one.shape[dim] for one in parts) for dim in range(4)]
    shape[along] = length
    return opaque(parts[0].new_tensor(COLOURS[colour]).expand(*shape[:3], 3), shape[3])[..., : shape[3]]


def joined_masks(masks: Sequence[Tensor]) -> Tensor:
    """Return masks (b, h, w) as one batch, all of the size of the first."""
    height, width = masks[0].shape[1:]
    sized = [
        mask
        if mask.shape[1:] == (height, width)
        else common_upscale(mask.unsqueeze(1), width, height, "bilinear", "center").squeeze(1)
        for mask in masks
    ]
    return torch.cat(sized)
