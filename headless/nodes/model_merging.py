"""ComfyUI's core nodes that mix the weights of models and of text encoders, for the embedded host."""

from __future__ import annotations

from typing import Any

from ..api import comfy_io as io
from .declared import Nodes

NODES = Nodes("model/merging")
UNET = "diffusion_model."
LEFT = (".position_ids", ".logit_scale")  # of a text encoder, what is not mixed


def _two(kind: Any, name: str) -> list[io.Input]:
    first = kind.Input(f"{name}1", tooltip="The first one; the input itself stays as it is.")
    return [first, kind.Input(f"{name}2", tooltip="The second one.")]


def _ratio(name: str = "ratio", tooltip: str = "How much of the first one stays; 0 is the second one.") -> io.Input:
    return io.Float.Input(name, default=1.0, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _multiplier() -> io.Input:
    return io.Float.Input("multiplier", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="Multiplies both of them.")


def mixed(one: Any, other: Any, strength: float, strength_model: float, prefix: str | None = UNET) -> Any:
    """Return a clone whose weights are its own times `strength_model`, and another one's times `strength`."""
    clone, patches = one.clone(), other.get_key_patches(prefix)
    clone.add_patches(
        {key: value for key, value in patches.items() if not key.endswith(LEFT)}, strength, strength_model
    )
    return clone


@NODES.add("ModelMergeSimple", "ModelMergeSimple", [*_two(io.Model, "model"), _ratio()], io.Model)
def model_merge_simple(model1: Any, model2: Any, ratio: float) -> Any:
    """Mix two models."""
    return mixed(model1, model2, 1.0 - ratio, ratio)


@NODES.add("ModelMergeSubtract", "ModelMergeSubtract", [*_two(io.Model, "model"), _multiplier()], io.Model)
def model_merge_subtract(model1: Any, model2: Any, multiplier: float) -> Any:
    """Take a model off another one."""
    return mixed(model1, model2, -multiplier, multiplier)


@NODES.add("ModelMergeAdd", "ModelMergeAdd", _two(io.Model, "model"), io.Model)
def model_merge_add(model1: Any, model2: Any) -> Any:
    """Add two models, such as one and a difference."""
    return mixed(model1, model2, 1.0, 1.0)


@NODES.add(
    "ModelMergeBlocks",
    "ModelMergeBlocks",
    [
        *_two(io.Model, "model"),
        *(_ratio(name, f"How much of the first stays in the {name} blocks.") for name in ("input", "middle", "out")),
    ],
    io.Model,
)
def model_merge_blocks(model1: Any, model2: Any, input: float, middle: float, out: float) -> Any:
    """Mix two models by parts; what is in no block is mixed as the input blocks."""
    ratios, clone = {"middle": middle, "out": out}, model1.clone()
    for key, value in model2.get_key_patches(UNET).items():
        part = next((part for part in ratios if key.removeprefix(UNET).startswith(part)), None)
        ratio = ratios[part] if part else input
        clone.add_patches({key: value}, 1.0 - ratio, ratio)
    return clone


@NODES.add("CLIPMergeSimple", "CLIPMergeSimple", [*_two(io.Clip, "clip"), _ratio()], io.Clip)
def clip_merge_simple(clip1: Any, clip2: Any, ratio: float) -> Any:
    """Mix two text encoders."""
    return mixed(clip1, clip2, 1.0 - ratio, ratio, None)


@NODES.add("CLIPMergeSubtract", "CLIPMergeSubtract", [*_two(io.Clip, "clip"), _multiplier()], io.Clip)
def clip_merge_subtract(clip1: Any, clip2: Any, multiplier: float) -> Any:
    """Take a text encoder off another one."""
    return mixed(clip1, clip2, -multiplier, multiplier, None)


@NODES.add("CLIPMergeAdd", "CLIPMergeAdd", _two(io.Clip, "clip"), io.Clip)
def clip_merge_add(clip1: Any, clip2: Any) -> Any:
    """Add two text encoders."""
    return mixed(clip1, clip2, 1.0, 1.0, None)
