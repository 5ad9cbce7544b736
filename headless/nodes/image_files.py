"""ComfyUI's core nodes that load pictures in other ways, and latents from files, for the embedded host."""

from __future__ import annotations

from torch import Tensor

from ..api import comfy_io as io
from ..api.session import current
from .declared import Nodes
from .image import LoadImage
from .pictures import read_picture

NODES = Nodes("image")
CHANNELS = ("alpha", "red", "green", "blue")


def _output_name(image: str) -> str:
    """Return a name of a file of the output folder, where a workflow does not say that it is of another one."""
    return image if image.endswith("]") else f"{image} [output]"


def _check_output(image: str | None = None) -> bool | str:
    return LoadImage.validate_inputs(None if image is None else _output_name(image))


@NODES.add(
    "LoadImageMask",
    "Load Image (as Mask)",
    lambda: [*LoadImage.GET_SCHEMA().inputs, io.Combo.Input("channel", options=CHANNELS, tooltip="What of it.")],
    io.Mask,
    methods={"validate_inputs": LoadImage.validate_inputs},
    reads=LoadImage.reads,
)
def load_image_mask(image: str, channel: str) -> Tensor:
    """Load a mask from a channel of a picture in the input folder."""
    pictures, clear = read_picture(current().folders.annotated_file(image))
    return clear if channel == "alpha" else pictures[..., CHANNELS.index(channel) - 1].clone()


@NODES.add(
    "LoadImageOutput",
    "Load Image (from Outputs)",
    [
        io.Combo.Input(
            "image",
            upload=io.UploadType.image,
            image_folder=io.FolderType.output,
            tooltip="A file in the output folder.",
        )
    ],
    io.Image,
    io.Mask,
    methods={"validate_inputs": _check_output},
    reads={"image": "output"},
    is_experimental=True,
)
def load_image_output(image: str) -> tuple[Tensor, Tensor]:
    """Load a picture from the output folder; its transparency becomes the mask."""
    return read_picture(current().folders.annotated_file(_output_name(image)))
