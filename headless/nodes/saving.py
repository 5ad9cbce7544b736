"""ComfyUI's core node that saves pictures in other formats, for the embedded host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from torch import Tensor

from ..api import comfy_io as io
from ..api.dynamic_io import DynamicCombo
from ..api.folders import numbered
from ..api.session import current
from .image import metadata, write_numbered
from .picture_formats import PLANES, exr, levels, linear, png

SPACES = ("sRGB", "HDR", "linear")


def encoded(picture: Tensor, how: Mapping[str, Any], texts: Mapping[str, str]) -> bytes:
    """Return a picture (h, w, c) as a file of a format; `how` has `format`, `bit_depth` and `input_color_space`."""
    picture = picture.unsqueeze(-1) if picture.ndim == 2 else picture
    if picture.shape[-1] not in PLANES:
        raise ValueError(f"a picture of {picture.shape[-1]} channels cannot be saved; there are those of 1, 3 and 4")
    if how["format"] == "png":
        return png(levels(picture, 16 if how["bit_depth"] == "16-bit" else 8), texts)
    space = how.get("input_color_space", "sRGB")
    return exr(linear(picture, space).cpu().numpy(), texts, "Rec. 2020" if space == "HDR" else "Rec. 709")


def _formats() -> list[DynamicCombo.Option]:
    def option(name: str, depths: tuple[str, ...], spaces: tuple[str, ...]) -> DynamicCombo.Option:
        settings: dict[str, Any] = {"advanced": True}
        return DynamicCombo.Option(
            name,
            [
                io.Combo.Input("bit_depth", options=depths, default=depths[0], **settings, tooltip="Of each number."),
                io.Combo.Input(
                    "input_color_space", options=spaces, default=spaces[0], **settings, tooltip="What the numbers mean."
                ),
            ],
        )

    return [option("png", ("8-bit", "16-bit"), SPACES[:1]), option("exr", ("32-bit float",), SPACES)]


class SaveImageAdvanced(io.ComfyNode):
    """Save images as PNG of 8 or 16 bits, or as OpenEXR."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SaveImageAdvanced",
            display_name="Save Image (Advanced)",
            category="image",
            description="Save the pictures to the output folder as PNG or OpenEXR, with the workflow inside.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save."),
                io.String.Input("filename_prefix", default="ComfyUI", tooltip="The start of the file names."),
                DynamicCombo.Input("format", _formats(), tooltip="The kind of file."),
            ],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str, format: dict[str, Any]) -> io.NodeOutput:
        """Write the files and list them."""
        folder, texts = current().folders.output, metadata(cls.hidden)
        directory, name, number = numbered(folder, filename_prefix, images[0].shape[1], images[0].shape[0])
        directory.mkdir(parents=True, exist_ok=True)
        subfolder = directory.relative_to(folder.resolve()).as_posix()
        entries = []
        for place, picture in enumerate(images):
            data, start = encoded(picture, format, texts), name.replace("%batch_num%", str(place))
            path, number = write_numbered(directory, start, number, f".{format['format']}", _writes(data))
            entries.append(
                {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"}
            )
        return io.NodeOutput(images, ui={"images": entries})


def _writes(data: bytes) -> Callable[[BinaryIO], Any]:
    return lambda file: file.write(data)


NODES = [SaveImageAdvanced]
