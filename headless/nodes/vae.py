"""ComfyUI's core nodes for a VAE alone, for large images and for inpainting, for the embedded host."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ldm_patched.images.vae import VAE
from ...ldm_patched.loading import sd
from ..api import comfy_io as io
from ..api.session import current

TINY_SCALES = {"taesd": 0.18215, "taesdxl": 0.13025}  # of the latents of SD 1 and 2, and of SDXL
CATEGORY = "model/latent"


def _tiny() -> dict[str, dict[str, str]]:
    """Return the small VAEs whose two files are there, and the files by their part."""
    found: dict[str, dict[str, str]] = {}
    for name in current().folders.model_names("vae_approx"):
        kind, _, part = name.partition(".")[0].rpartition("_")
        if kind in TINY_SCALES and part in ("encoder", "decoder"):
            found.setdefault(kind, {})[part] = name
    return {kind: files for kind, files in found.items() if len(files) == 2}


class VAELoader(io.ComfyNode):
    """Load a VAE alone."""

    reads = {"vae_name": "vae"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VAELoader",
            display_name="Load VAE",
            category="model/loaders",
            description="Load a VAE from models/vae, or a small one from the two files of models/vae_approx.",
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=[*current().folders.model_names("vae"), *_tiny()],
                    tooltip="A file in models/vae, or taesd or taesdxl.",
                )
            ],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        """Load the file, or the two files."""
        if vae_name in TINY_SCALES:
            folders, files = current().folders, _tiny()[vae_name]
            encoder, decoder = (folders.model("vae_approx", files[part]) for part in ("encoder", "decoder"))
            return io.NodeOutput(sd.load_tiny_vae(encoder, decoder, TINY_SCALES[vae_name]))
        return io.NodeOutput(sd.load_vae(current().folders.model("vae", vae_name)))


def _tile_inputs(step: int) -> list[io.Input]:
    frames = {"max": 4096, "step": 4, "advanced": True}
    tile: dict[str, Any] = {"default": 512, "min": 64, "max": 4096, "step": step}
    return [
        io.Int.Input("tile_size", **tile, advanced=True, tooltip="Side of a tile in pixels."),
        io.Int.Input(
            "overlap", default=64, min=0, max=4096, step=32, advanced=True, tooltip="How far tiles overlap in pixels."
        ),
        io.Int.Input("temporal_size", default=64, min=8, **frames, tooltip="Read by VAEs of videos only."),
        io.Int.Input("temporal_overlap", default=8, min=4, **frames, tooltip="Read by VAEs of videos only."),
    ]


class VAEDecodeTiled(io.ComfyNode):
    """Decode latents in tiles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VAEDecodeTiled",
            display_name="VAE Decode (Tiled)",
            category=CATEGORY,
            description="Decode latents to pictures in tiles, which needs less memory.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents to decode."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                *_tile_inputs(32),
            ],
            outputs=[io.Image.Output(tooltip="The pictures.")],
        )

    @classmethod
    def execute(
        cls, samples: dict[str, Any], vae: VAE, tile_size: int, overlap: int, temporal_size: int, temporal_overlap: int
    ) -> io.NodeOutput:
        """Return the images (b, h, w, 3)."""
        overlap = tile_size // 4 if tile_size < overlap * 4 else overlap
        ratio = vae.downscale_ratio
        return io.NodeOutput(vae.decode_tiled(samples["samples"], tile_size // ratio, overlap // ratio))


class VAEEncodeTiled(io.ComfyNode):
    """Encode images in tiles."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VAEEncodeTiled",
            display_name="VAE Encode (Tiled)",
            category=CATEGORY,
            description="Encode pictures to latents in tiles, which needs less memory.",
            inputs=[
                io.Image.Input("pixels", tooltip="The pictures to encode."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                *_tile_inputs(64),
            ],
            outputs=[io.Latent.Output(tooltip="The latents.")],
        )

    @classmethod
    def execute(
        cls, pixels: Tensor, vae: VAE, tile_size: int, overlap: int, temporal_size: int, temporal_overlap: int
    ) -> io.NodeOutput:
        """Return the latents."""
        return io.NodeOutput({"samples": vae.encode_tiled(pixels, tile_size, overlap)})


class VAEEncodeForInpaint(io.ComfyNode):
    """Encode images with a part taken out."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VAEEncodeForInpaint",
            display_name="VAE Encode (for Inpainting)",
            category=CATEGORY,
            description="Encode pictures with the masked part grey, and let a sampler fill that part.",
            inputs=[
                io.Image.Input("pixels", tooltip="The pictures to encode."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Mask.Input("mask", tooltip="1 where the picture is to be filled."),
                io.Int.Input(
                    "grow_mask_by",
                    default=6,
                    min=0,
                    max=64,
                    step=1,
                    tooltip="By how many pixels the mask of the latents grows, to hide the seam.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The latents, with a mask.")],
        )

    @classmethod
    def execute(cls, pixels: Tensor, vae: VAE, mask: Tensor, grow_mask_by: int) -> io.NodeOutput:
        """Return the latents and their noise mask (b, 1, h, w) in pixels."""
        mask = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), size=pixels.shape[1:3], mode="bilinear")
        mask = vae.crop(mask.movedim(1, -1)).movedim(-1, 1)
        pixels = vae.crop(pixels)
        latent = vae.encode(greyed(pixels, mask))
        return io.NodeOutput({"samples": latent, "noise_mask": grown(mask, grow_mask_by)})


def greyed(pixels: Tensor, mask: Tensor) -> Tensor:
    """Return images (b, h, w, 3) with middle grey where a mask (b, 1, h, w) rounds to 1."""
    kept = 1.0 - mask.round().movedim(1, -1)
    return (pixels - 0.5) * kept + 0.5


def grown(mask: Tensor, pixels: int) -> Tensor:
    """Return a mask (b, 1, h, w) of zeros and ones, grown by half that many pixels on each side."""
    if pixels == 0:
        return mask.round()
    kernel = torch.ones(1, 1, pixels, pixels)
    found = F.conv2d(mask.round(), kernel, padding=math.ceil((pixels - 1) / 2)).clamp(0, 1)
    return found[..., : mask.shape[-2], : mask.shape[-1]].round()


NODES = [VAELoader, VAEDecodeTiled, VAEEncodeTiled, VAEEncodeForInpaint]
