"""ComfyUI's core nodes for models that see a second image: inpainting and instruct-pix2pix, for the embedded host."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..api import comfy_io as io
from .conditioning import Conditioning, with_values


def whole_latent_pixels(image: Tensor) -> Tensor:
    """Cut an image (b, h, w, ...) around its middle to multiples of 8 in height and width."""
    for dim in (1, 2):
        rest = image.shape[dim] % 8
        image = image.narrow(dim, rest // 2, image.shape[dim] - rest)
    return image


class InpaintModelConditioning(io.ComfyNode):
    """Prepare an image for an inpainting model."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="InpaintModelConditioning",
            display_name="InpaintModelConditioning",
            category="model/conditioning",
            description="Give an inpainting model the picture with its masked part grey, and the mask.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The positive prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input("pixels", tooltip="The picture."),
                io.Mask.Input("mask", tooltip="1 where the picture is made anew."),
                io.Boolean.Input(
                    "noise_mask", default=True, tooltip="Change nothing outside of the mask, whatever the model does."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        vae: Any,
        pixels: Tensor,
        mask: Tensor,
        noise_mask: bool = True,
    ) -> io.NodeOutput:
        """Return both prompts with the image and mask, and the latent of the whole image."""
        mask = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), size=tuple(pixels.shape[1:3]), mode="bilinear")
        mask = whole_latent_pixels(mask.movedim(1, -1)).movedim(-1, 1)  # (b, 1, h, w)
        keep = 1.0 - mask.round().movedim(1, -1)  # (b, h, w, 1)
        grey = (whole_latent_pixels(pixels)[..., :3] - 0.5) * keep + 0.5
        values = {"concat_latent_image": vae.encode(grey), "concat_mask": mask}
        latent: dict[str, Any] = {"samples": vae.encode(pixels)}
        if noise_mask:
            latent["noise_mask"] = mask
        return io.NodeOutput(with_values(positive, **values), with_values(negative, **values), latent)


class InstructPixToPixConditioning(io.ComfyNode):
    """Give an instruct-pix2pix model the image to edit."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="InstructPixToPixConditioning",
            category="model/conditioning/instructpix2pix",
            description="Give an instruct-pix2pix model the picture to edit.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What to change."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input("pixels", tooltip="The picture to edit."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(cls, positive: Conditioning, negative: Conditioning, vae: Any, pixels: Tensor) -> io.NodeOutput:
        """Return both prompts with the image, and an empty latent of its size."""
        image = vae.encode(whole_latent_pixels(pixels))
        prompts = [with_values(prompt, concat_latent_image=image) for prompt in (positive, negative)]
        return io.NodeOutput(*prompts, {"samples": torch.zeros_like(image)})


NODES = [InpaintModelConditioning, InstructPixToPixConditioning]
