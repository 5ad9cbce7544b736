"""ComfyUI's core nodes that load text encoders, GLIGEN and upscale models, and use them, for the embedded host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...ldm_patched.files.model_file import model_file, report_unused
from ...ldm_patched.files.torch_file import named_tensors
from ...ldm_patched.images.vae_tiles import tiled
from ...ldm_patched.ldm.modules.gligen import load_gligen
from ...ldm_patched.loading import sd
from ...ldm_patched.modules import model_management
from ...ldm_patched.modules.model_patcher import ModelPatcher
from ...ldm_patched.sampling.model_sampling import discrete_sampling
from ..api import comfy_io as io
from ..api.session import current
from .conditioning import Conditioning
from .declared import Decorator, Nodes
from .sizes import image, pixels

NODES = Nodes("model/loaders")
TILE, OVERLAP, SMALLEST_TILE = 512, 32, 128


def _file(name: str, kind: str) -> io.Input:
    names = current().folders.model_names(kind)
    return io.Combo.Input(name, options=names, tooltip=f"A file in models/{kind}.")


def _loader(id: str, title: str, name: str, kind: str, made: Any) -> Decorator:
    """Declare a node that loads the one file it names."""
    return NODES.add(id, title, lambda: [_file(name, kind)], made, reads={name: kind})


def _device() -> io.Input:
    options = ["default", "cpu"]
    return io.Combo.Input("device", options=options, optional=True, advanced=True, tooltip="Both are the same here.")


def _clip(*names: str) -> Any:
    folders = current().folders
    return sd.load_clip([folders.model("text_encoders", name) for name in names], folders.embedding)


@NODES.add(
    "CLIPLoader",
    "Load CLIP",
    lambda: [
        _file("clip_name", "text_encoders"),
        io.Combo.Input("type", options=["stable_diffusion"], tooltip="The kind of model it is for."),
        _device(),
    ],
    io.Clip,
    reads={"clip_name": "text_encoders"},
)
def clip_loader(clip_name: str, type: str, device: str = "default") -> Any:
    """Load a text encoder of CLIP alone."""
    return _clip(clip_name)


@NODES.add(
    "DualCLIPLoader",
    "Load CLIP (Dual)",
    lambda: [
        _file("clip_name1", "text_encoders"),
        _file("clip_name2", "text_encoders"),
        io.Combo.Input("type", options=["sdxl"], tooltip="The kind of model they are for."),
        _device(),
    ],
    io.Clip,
    reads={"clip_name1": "text_encoders", "clip_name2": "text_encoders"},
)
def dual_clip_loader(clip_name1: str, clip_name2: str, type: str, device: str = "default") -> Any:
    """Load both text encoders of SDXL."""
    return _clip(clip_name1, clip_name2)


@NODES.add(
    "CheckpointLoader",
    "Load Checkpoint With Config (DEPRECATED)",
    lambda: [
        io.Combo.Input(
            "config_name", options=current().folders.model_names("configs"), tooltip="A file in models/configs."
        ),
        _file("ckpt_name", "checkpoints"),
    ],
    io.Model,
    io.Clip,
    io.Vae,
    reads={"config_name": "configs", "ckpt_name": "checkpoints"},
    is_deprecated=True,
)
def checkpoint_loader(config_name: str, ckpt_name: str) -> tuple[Any, Any, Any]:
    """Load a checkpoint whose kind of prediction and layer of the text encoder stand in a file of their own."""
    folders = current().folders
    text = folders.model("configs", config_name).read_text(errors="replace")
    model, clip, vae = sd.load_checkpoint(
        folders.model("checkpoints", ckpt_name), current().unet_dtype, folders.embedding
    )
    if re.search(r"""^\s*parameterization:\s*["']?v["']?\s*$""", text, re.M):
        model.add_object_patch("model_sampling", discrete_sampling("v_prediction"))
    if layer := re.search(r"^\s*layer_idx:\s*(-?\d+)\s*$", text, re.M):
        clip.clip_layer(int(layer[1]))
    return model, clip, vae


@NODES.add(
    "CLIPVisionEncode",
    "CLIP Vision Encode",
    [
        io.ClipVision.Input("clip_vision", tooltip="The picture encoder."),
        image(),
        io.Combo.Input("crop", options=["center", "none"], tooltip="Whether pictures are cut or squeezed to a square."),
    ],
    io.ClipVisionOutput,
    stored=True,
    category="model/conditioning",
)
def clip_vision_encode(clip_vision: Any, image: Tensor, crop: str) -> Any:
    """Encode pictures with CLIP."""
    return clip_vision.encode_image(image, crop == "center")


# GLIGEN


@_loader("GLIGENLoader", "Load GLIGEN Model", "gligen_name", "gligen", io.Gligen)
def gligen_loader(gligen_name: str) -> ModelPatcher:
    """Load a GLIGEN model, which puts phrases at places."""
    with model_file(current().folders.model("gligen", gligen_name)) as file:
        model = load_gligen({key: file[key].float() for key in file}).requires_grad_(False).eval()
        report_unused(file)
    return ModelPatcher(model, model_management.get_torch_device(), model_management.unet_offload_device())


@NODES.add(
    "GLIGENTextBoxApply",
    "Apply GLIGEN Text Box",
    [
        io.Conditioning.Input("conditioning_to", tooltip="The conditioning; the input itself stays as it is."),
        io.Clip.Input("clip", tooltip="The text encoder."),
        io.Gligen.Input("gligen_textbox_model", tooltip="The GLIGEN model."),
        io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="What is there."),
        pixels("width", "Width of its place in pixels.", 64, 8, 8),
        pixels("height", "Height of its place in pixels.", 64, 8, 8),
        pixels("x", "Pixels from the left.", 0, step=8),
        pixels("y", "Pixels from the top.", 0, step=8),
    ],
    io.Conditioning,
    category="model/conditioning/gligen",
)
def gligen_text_box_apply(
    conditioning_to: Conditioning,
    clip: Any,
    gligen_textbox_model: ModelPatcher,
    text: str,
    width: int,
    height: int,
    x: int,
    y: int,
) -> Conditioning:
    """Put a phrase at a place of the picture."""
    pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")[1]
    box = (pooled, height // 8, width // 8, y // 8, x // 8)
    added = []
    for tokens, values in conditioning_to:
        before = values["gligen"][2] if "gligen" in values else []
        added.append([tokens, {**values, "gligen": ("position", gligen_textbox_model, [*before, box])}])
    return added


# Upscale models


@_loader("UpscaleModelLoader", "Load Upscale Model", "model_name", "upscale_models", io.UpscaleModel)
def upscale_model_loader(model_name: str) -> Any:
    """Load an upscale model; this needs spandrel."""
    return load_upscale_model(current().folders.model("upscale_models", model_name))


def load_upscale_model(path: Path) -> Any:
    """Return spandrel's description of a model that makes larger pictures.

    Raises ValueError where spandrel is missing or does not know the file.
    """
    try:
        import spandrel
    except ImportError:
        raise ValueError("upscale models need spandrel: pip install 'attention-patchbay[upscale]'") from None
    file = named_tensors(path)
    weights = {key: file[key] for key in file}
    if "module.layers.0.residual_group.blocks.0.norm1.weight" in weights:
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    try:
        model = spandrel.ModelLoader().load_from_state_dict(weights)
    except spandrel.UnsupportedModelError as error:
        raise ValueError(f"{path}: spandrel knows no such upscale model") from error
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise ValueError(f"{path} does not make one picture of one")
    return model.eval()


@NODES.add(
    "ImageUpscaleWithModel",
    "Upscale Image (using Model)",
    [io.UpscaleModel.Input("upscale_model", tooltip="The upscale model."), image()],
    io.Image,
    stored=True,
    category="image/upscaling",
)
def image_upscale_with_model(upscale_model: Any, image: Tensor) -> Tensor:
    """Enlarge pictures with a model, in tiles."""
    device, samples, tile = model_management.get_torch_device(), image.movedim(-1, 1), TILE
    upscale_model.to(device)
    try:
        while True:
            try:
                with torch.no_grad():
                    out = tiled(samples, lambda part: _enlarged(upscale_model, part, device), (tile, tile), OVERLAP,
                                upscale_model.scale)  # fmt: skip
                return out.movedim(1, -1).clamp(0, 1)
            except torch.OutOfMemoryError:
                tile //= 2
                if tile < SMALLEST_TILE:
                    raise
    finally:
        upscale_model.to("cpu")


def _enlarged(model: Any, part: Tensor, device: torch.device) -> Tensor:
    enlarged: Tensor = model(part.to(device).float())
    return enlarged.cpu()
