"""ComfyUI's core nodes that resize and mask latents and choose their noise, for the embedded host."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ldm_patched.sampling.upscale import UPSCALE_METHODS, common_upscale
from ..api import comfy_io as io
from .conditioning import RESOLUTION_MAX

CATEGORY = "model/latent"
SMALLEST = 64  # pixels

Latent = dict[str, Any]


def resized(latent: Latent, width: int, height: int, method: str, crop: str = "disabled") -> Latent:
    """Return a latent with its samples at another size, in latent pixels."""
    return {**latent, "samples": common_upscale(latent["samples"], width, height, method, crop)}


def pixel_size(samples: Tensor, width: int, height: int) -> tuple[int, int]:
    """Return the size in pixels that LatentUpscale gives samples (b, c, h, w): a side of 0 follows from the other one.

    Like ComfyUI's, a side that follows is counted in latent pixels of the input per pixel of the other side.
    """
    columns, rows = samples.shape[-1], samples.shape[-2]
    if width == 0:
        height = max(SMALLEST, height)
        width = round(columns * height / rows)
    elif height == 0:
        width = max(SMALLEST, width)
        height = round(rows * width / columns)
    return max(SMALLEST, width), max(SMALLEST, height)


class LatentUpscale(io.ComfyNode):
    """Resize latents to a size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        size = {"default": 512, "min": 0, "max": RESOLUTION_MAX, "step": 8}
        return io.Schema(
            node_id="LatentUpscale",
            display_name="Upscale Latent",
            category=CATEGORY,
            description="Resize latents to a size in pixels.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents."),
                io.Combo.Input("upscale_method", options=list(UPSCALE_METHODS), tooltip="How values are interpolated."),
                io.Int.Input("width", **size, tooltip="Width in pixels; 0 keeps the aspect ratio."),
                io.Int.Input("height", **size, tooltip="Height in pixels; 0 keeps the aspect ratio."),
                io.Combo.Input(
                    "crop",
                    options=["disabled", "center"],
                    tooltip="Whether the latents are stretched to another aspect ratio or cut to it.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, upscale_method: str, width: int, height: int, crop: str) -> io.NodeOutput:
        """Return the resized latents; both sides 0 leave them as they are."""
        if width == height == 0:
            return io.NodeOutput(samples)
        width, height = pixel_size(samples["samples"], width, height)
        return io.NodeOutput(resized(samples, width // 8, height // 8, upscale_method, crop))


class LatentUpscaleBy(io.ComfyNode):
    """Resize latents by a factor."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LatentUpscaleBy",
            display_name="Upscale Latent By",
            category=CATEGORY,
            description="Resize latents by a factor.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents."),
                io.Combo.Input("upscale_method", options=list(UPSCALE_METHODS), tooltip="How values are interpolated."),
                io.Float.Input("scale_by", default=1.5, min=0.01, max=8.0, step=0.01, tooltip="The factor."),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, upscale_method: str, scale_by: float) -> io.NodeOutput:
        """Return the resized latents."""
        height, width = (round(size * scale_by) for size in samples["samples"].shape[-2:])
        return io.NodeOutput(resized(samples, width, height, upscale_method))


class SetLatentNoiseMask(io.ComfyNode):
    """Limit sampling to a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SetLatentNoiseMask",
            display_name="Set Latent Noise Mask",
            category=CATEGORY,
            description="Let a sampler change only a part of the latents.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents."),
                io.Mask.Input("mask", tooltip="1 where they are sampled, 0 where they stay."),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, mask: Tensor) -> io.NodeOutput:
        """Return the latents with the mask."""
        return io.NodeOutput({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])})


class LatentBatchSeedBehavior(io.ComfyNode):
    """Choose whether the latents of a batch start from the same noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LatentBatchSeedBehavior",
            category=f"{CATEGORY}/advanced",
            description="Let the latents of a batch start from the same noise, or each from its own.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents."),
                io.Combo.Input(
                    "seed_behavior",
                    options=["random", "fixed"],
                    default="fixed",
                    tooltip="random: each from its own noise. fixed: all from the noise of the first.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, seed_behavior: str) -> io.NodeOutput:
        """Return the latents with the places in a batch that their noise is drawn at."""
        out = {name: value for name, value in samples.items() if name != "batch_index"}
        if seed_behavior == "fixed":
            first = samples.get("batch_index", [0])[0]
            out["batch_index"] = [first] * len(samples["samples"])
        return io.NodeOutput(out)


NODES = [LatentUpscale, LatentUpscaleBy, SetLatentNoiseMask, LatentBatchSeedBehavior]
