"""ComfyUI's core nodes for Stable Video Diffusion, for the embedded host. They need Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...ldm_patched.loading.video import load_image_only_checkpoint
from ...ldm_patched.sampling.upscale import common_upscale
from ...ldm_patched.text.clip_vision import load_clip_vision
from ..api import comfy_io as io
from ..api.folders import numbered
from ..api.session import current
from .image import metadata, write_numbered

WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}
EXIF_MODEL, EXIF_MAKE = 0x0110, 0x010F


class ImageOnlyCheckpointLoader(io.ComfyNode):
    """Load UNet, image encoder and VAE from one file."""

    reads = {"ckpt_name": "checkpoints"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ImageOnlyCheckpointLoader",
            display_name="Load Checkpoint Image Only (img2vid model)",
            category="model/loaders",
            description="Load a video model, its picture encoder and its VAE from a file in models/checkpoints.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=current().folders.model_names("checkpoints"),
                    tooltip="A file in models/checkpoints.",
                )
            ],
            outputs=[io.Model.Output(), io.ClipVision.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        """Load the file."""
        path = current().folders.model("checkpoints", ckpt_name)
        return io.NodeOutput(*load_image_only_checkpoint(path, current().unet_dtype))


class CLIPVisionLoader(io.ComfyNode):
    """Load an image encoder alone."""

    reads = {"clip_name": "clip_vision"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CLIPVisionLoader",
            display_name="Load CLIP Vision",
            category="model/loaders",
            description="Load a picture encoder from a safetensors file in models/clip_vision.",
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=current().folders.model_names("clip_vision"),
                    tooltip="A file in models/clip_vision.",
                )
            ],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        """Load the file."""
        return io.NodeOutput(load_clip_vision(current().folders.model("clip_vision", clip_name)))


def _video_inputs() -> list[io.Input]:
    side = {"min": 16, "max": 16384, "step": 8}
    return [
        io.Int.Input("width", default=1024, **side, tooltip="Width in pixels."),
        io.Int.Input("height", default=576, **side, tooltip="Height in pixels."),
        io.Int.Input("video_frames", default=14, min=1, max=4096, tooltip="The number of frames."),
        io.Int.Input(
            "motion_bucket_id", default=127, min=1, max=1023, advanced=True, tooltip="How much moves in the video."
        ),
        io.Int.Input("fps", default=6, min=1, max=1024, tooltip="Frames per second the motion is meant for."),
        io.Float.Input(
            "augmentation_level",
            default=0.0,
            min=0.0,
            max=10.0,
            step=0.01,
            advanced=True,
            tooltip="Noise on the first picture; more lets the video leave it further behind.",
        ),
    ]


class SVDImg2vidConditioning(io.ComfyNode):
    """Turn an image into the conditioning of a video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SVD_img2vid_Conditioning",
            display_name="SVD_img2vid_Conditioning",
            category="model/conditioning/stable video",
            description="Let a video start from a picture.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The picture encoder of the model."),
                io.Image.Input("init_image", tooltip="The first picture."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                *_video_inputs(),
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
        clip_vision: Any,
        init_image: Tensor,
        vae: Any,
        width: int,
        height: int,
        video_frames: int,
        motion_bucket_id: int,
        fps: int,
        augmentation_level: float,
    ) -> io.NodeOutput:
        """Return both conditionings and empty latents (video_frames, 4, height / 8, width / 8)."""
        seen = clip_vision.encode_image(init_image).image_embeds.unsqueeze(0)
        pixels = common_upscale(init_image.movedim(-1, 1), width, height, "bilinear", "center").movedim(1, -1)[..., :3]
        if augmentation_level > 0:
            pixels = pixels + torch.randn_like(pixels) * augmentation_level
        start = vae.encode(pixels)
        shared = {"motion_bucket_id": motion_bucket_id, "fps": fps, "augmentation_level": augmentation_level}
        positive = [[seen, {**shared, "concat_latent_image": start}]]
        negative = [[torch.zeros_like(seen), {**shared, "concat_latent_image": torch.zeros_like(start)}]]
        return io.NodeOutput(positive, negative, {"samples": torch.zeros(video_frames, 4, height // 8, width // 8)})


class VideoLinearCFGGuidance(io.ComfyNode):
    """Guide later frames more strongly."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VideoLinearCFGGuidance",
            display_name="Video Linear CFG Guidance",
            category="model/sampling/guiders",
            description="Raise the guidance over the frames, from a smallest one to the sampler's.",
            inputs=[
                io.Model.Input("model", tooltip="The model to guide."),
                io.Float.Input(
                    "min_cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    round=0.01,
                    advanced=True,
                    tooltip="The guidance of the first frame.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, min_cfg: float) -> io.NodeOutput:
        """Return a clone of the model with this guidance."""

        def guided(args: dict[str, Any]) -> Tensor:
            cond, uncond = args["cond"], args["uncond"]
            scale = torch.linspace(min_cfg, args["cond_scale"], cond.shape[0], device=cond.device)
            return uncond + scale.reshape(-1, 1, 1, 1) * (cond - uncond)

        model = model.clone()
        model.set_model_sampler_cfg_function(guided)
        return io.NodeOutput(model)


class SaveAnimatedWEBP(io.ComfyNode):
    """Save images as one animation with their workflow inside."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SaveAnimatedWEBP",
            display_name="Save Animated WEBP",
            category="image",
            description="Save the pictures to the output folder as one animated WebP, with the workflow inside.",
            inputs=[
                io.Image.Input("images", tooltip="The frames to save."),
                io.String.Input(
                    "filename_prefix",
                    default="ComfyUI",
                    tooltip="The start of the file name; may hold folders and words such as %year% or %width%.",
                ),
                io.Float.Input("fps", default=6.0, min=0.01, max=1000.0, step=0.01, tooltip="Frames per second."),
                io.Boolean.Input("lossless", default=True, tooltip="Whether every pixel is kept as it is."),
                io.Int.Input("quality", default=80, min=0, max=100, tooltip="Picture quality, or effort if lossless."),
                io.Combo.Input("method", options=list(WEBP_METHODS), tooltip="Slower makes smaller files."),
            ],
            outputs=[io.Image.Output(display_name="images")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images: Tensor, filename_prefix: str, fps: float, lossless: bool, quality: int, method: str
    ) -> io.NodeOutput:
        """Write the file and list it."""
        folder = current().folders.output
        directory, name, number = numbered(folder, filename_prefix, images.shape[2], images.shape[1])
        directory.mkdir(parents=True, exist_ok=True)
        options = {"lossless": lossless, "quality": quality, "method": WEBP_METHODS[method]}
        write = partial(write_webp, images, int(1000.0 / fps), metadata(cls.hidden), options)
        path, _ = write_numbered(directory, name, number, "_.webp", write)
        subfolder = directory.relative_to(folder.resolve()).as_posix()
        entry = {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"}
        animated = {"animated": [True]} if len(images) > 1 else {}
        return io.NodeOutput(images, ui={"images": [entry], **animated})


def write_webp(
    images: Tensor, duration: int, texts: Mapping[str, str], options: Mapping[str, Any], file: BinaryIO
) -> None:
    """Write images (b, h, w, c) in 0..1 as one animation; a frame lasts `duration` ms."""
    pixels = (255.0 * images.cpu().numpy()).clip(0, 255).astype(np.uint8)
    first, *others = [Image.fromarray(frame) for frame in pixels]
    exif = first.getexif()
    make = EXIF_MAKE
    for key, value in texts.items():
        if key == "prompt":
            exif[EXIF_MODEL] = f"prompt:{value}"
        else:
            exif[make] = f"{key}:{value}"
            make -= 1
    first.save(file, "WEBP", save_all=True, append_images=others, duration=duration, exif=exif, **options)


NODES = [CLIPVisionLoader, ImageOnlyCheckpointLoader, SVDImg2vidConditioning, VideoLinearCFGGuidance, SaveAnimatedWEBP]
