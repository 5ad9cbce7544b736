"""ComfyUI's core nodes for images and the VAE, for the embedded host. They need Pillow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ...ldm_patched.files.whole import write_new
from ..api import comfy_io as io
from ..api.folders import numbered
from ..api.session import current
from .pictures import read_picture


class VAEDecode(io.ComfyNode):
    """Decode latents to images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VAEDecode",
            display_name="VAE Decode",
            category="latent",
            description="Decode latents to pictures.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents to decode."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
            ],
            outputs=[io.Image.Output(tooltip="The pictures.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any) -> io.NodeOutput:
        """Return the images (b, h, w, 3)."""
        return io.NodeOutput(vae.decode(samples["samples"]))


class VAEEncode(io.ComfyNode):
    """Encode images to latents."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VAEEncode",
            display_name="VAE Encode",
            category="latent",
            description="Encode pictures to latents.",
            inputs=[
                io.Image.Input("pixels", tooltip="The pictures to encode."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
            ],
            outputs=[io.Latent.Output(tooltip="The latents.")],
        )

    @classmethod
    def execute(cls, pixels: Tensor, vae: Any) -> io.NodeOutput:
        """Return the latents."""
        return io.NodeOutput({"samples": vae.encode(pixels[..., :3])})


class LoadImage(io.ComfyNode):
    """Load an image from the input folder."""

    reads = {"image": "input"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LoadImage",
            display_name="Load Image",
            category="image",
            description="Load a picture from the input folder; its transparency becomes the mask.",
            inputs=[
                io.Combo.Input(
                    "image",
                    options=current().folders.input_names(),
                    upload=io.UploadType.image,
                    tooltip="A file in the input folder.",
                )
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def validate_inputs(cls, image: str | None = None) -> bool | str:
        """Check that the file is there."""
        try:
            if image is not None:
                current().folders.annotated_file(image)
        except (OSError, ValueError) as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, image: str) -> io.NodeOutput:
        """Return the image (frames, h, w, 3) in 0..1 and the mask (frames, h, w), 1 where it is transparent."""
        return io.NodeOutput(*read_picture(current().folders.annotated_file(image)))


class SaveImage(io.ComfyNode):
    """Save images with their workflow inside."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SaveImage",
            display_name="Save Image",
            category="image",
            description="Save the pictures to the output folder as PNG, with the workflow inside.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save."),
                io.String.Input(
                    "filename_prefix",
                    default="ComfyUI",
                    tooltip="The start of the file names; may hold folders and words such as %year% or %width%.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str) -> io.NodeOutput:
        """Write the files and list them."""
        texts = metadata(cls.hidden)
        return io.NodeOutput(
            images, ui={"images": save(images, current().folders.output, filename_prefix, "output", texts)}
        )


class PreviewImage(io.ComfyNode):
    """Save images to the temporary folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PreviewImage",
            display_name="Preview Image",
            category="image",
            description="Save the pictures to the temporary folder.",
            inputs=[io.Image.Input("images", tooltip="The pictures to show.")],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor) -> io.NodeOutput:
        """Write the files and list them."""
        folder = current().folders.temp
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        entries = save(images, folder, "ComfyUI_temp", "temp", metadata(cls.hidden))
        return io.NodeOutput(images, ui={"images": entries})


def save(images: Tensor, folder: Path, prefix: str, kind: str, texts: Mapping[str, str]) -> list[dict[str, str]]:
    """Write images (b, h, w, c) in 0..1 as numbered PNG files with text chunks; return their entries for the page.

    A number that another process takes meanwhile is left out.
    """
    directory, name, number = numbered(folder, prefix, images.shape[2], images.shape[1])
    directory.mkdir(parents=True, exist_ok=True)
    subfolder = directory.relative_to(folder.resolve()).as_posix()
    entries = []
    for place, image in enumerate(images):
        pixels = (255.0 * image.cpu().numpy()).clip(0, 255).astype(np.uint8)
        start = name.replace("%batch_num%", str(place))
        path, number = write_numbered(directory, start, number, "_.png", partial(_write_png, pixels, texts))
        entries.append({"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": kind})
    return entries


def write_numbered(
    directory: Path, name: str, number: int, ending: str, write: Callable[[BinaryIO], Any]
) -> tuple[Path, int]:
    """Write a whole new file with the first free number from `number` on; return it and the number after it."""
    last = number

    def paths() -> Iterator[Path]:
        nonlocal last
        for last in itertools.count(number):
            yield directory / f"{name}_{last:05}{ending}"

    return write_new(paths(), write), last + 1


def _write_png(pixels: np.ndarray, texts: Mapping[str, str], file: BinaryIO) -> None:
    chunks = PngInfo()
    for key, value in texts.items():
        chunks.add_text(key, value)
    Image.fromarray(pixels).save(file, format="PNG", pnginfo=chunks, compress_level=4)


def metadata(hidden: Any) -> dict[str, str]:
    """Return the prompt and the workflow of a run as JSON, by the names under which they are saved."""
    if hidden is None:
        return {}
    texts = {} if hidden.prompt is None else {"prompt": json.dumps(hidden.prompt)}
    return texts | {key: json.dumps(value) for key, value in (hidden.extra_pnginfo or {}).items()}


NODES = [VAEDecode, VAEEncode, LoadImage, SaveImage, PreviewImage]
