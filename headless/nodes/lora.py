"""ComfyUI's core nodes for LoRA files, and for the layer of the text encoder, for the embedded host."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ...ldm_patched.files.checkpoint import Checkpoint
from ...ldm_patched.files.lora import clip_names, fault_of, load_lora, unet_names
from ...ldm_patched.loading.absent import Absent
from ..api import comfy_io as io
from ..api.session import current

log = logging.getLogger(__name__)


def lora_file() -> io.Input:
    """Return the input of a LoRA file."""
    names = current().folders.model_names("loras")
    return io.Combo.Input("lora_name", options=names, tooltip="A safetensors file in models/loras.")


def _strength(name: str, what: str) -> io.Input:
    tooltip = f"How strongly {what} is changed; may be negative, 0 leaves it as it is."
    return io.Float.Input(name, default=1.0, min=-100.0, max=100.0, step=0.01, tooltip=tooltip)


def read_lora(name: str) -> dict[str, Tensor]:
    """Return the entries of a LoRA file. Raises ValueError where it is damaged."""
    entries = Checkpoint(current().folders.model("loras", name)).loaded()
    if fault := fault_of(entries):
        raise ValueError(f"{name}: {fault}")
    return entries


def with_lora(model: Any, clip: Any, name: str, strength_model: float, strength_clip: float) -> tuple[Any, Any]:
    """Return clones of a model and of its text encoder (None: leave it out) with a LoRA file on them.

    Raises ValueError when the file holds nothing for either.
    """
    file = read_lora(name)
    targets = [(model, unet_names(model.model.state_dict()), strength_model)]
    has_clip = clip is not None and not isinstance(clip, Absent)
    if has_clip:
        targets.append((clip, clip_names(clip.cond_stage_model.state_dict()), strength_clip))
    unused, clones = set(file), []
    for target, names, strength in targets:
        patches, rest = load_lora(file, names)
        unused &= rest
        clone = target.clone()
        if strength != 0.0:
            clone.add_patches(patches, strength)
        clones.append(clone)
    if len(unused) == len(file):
        raise ValueError(f"{name} holds nothing for this model; its first key is {min(file)!r}")
    if unused:
        log.warning("%s: %d of %d entries fit nothing, for example %s", name, len(unused), len(file), min(unused))
    return clones[0], clones[1] if has_clip else clip


class LoraLoader(io.ComfyNode):
    """Put a LoRA on a model and its text encoder."""

    reads = {"lora_name": "loras"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LoraLoader",
            display_name="Load LoRA",
            category="model/loaders",
            description="Put a LoRA on a model and its text encoder. Several can be chained.",
            inputs=[
                io.Model.Input("model", tooltip="The model; the input itself stays as it is."),
                io.Clip.Input("clip", tooltip="The text encoder; the input itself stays as it is."),
                lora_file(),
                _strength("strength_model", "the model"),
                _strength("strength_clip", "the text encoder"),
            ],
            outputs=[io.Model.Output(), io.Clip.Output()],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float
    ) -> io.NodeOutput:
        """Return the clones."""
        return io.NodeOutput(*with_lora(model, clip, lora_name, strength_model, strength_clip))


class LoraLoaderModelOnly(io.ComfyNode):
    """Put a LoRA on a model alone."""

    reads = {"lora_name": "loras"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="LoraLoaderModelOnly",
            display_name="LoraLoaderModelOnly",
            category="model/loaders",
            description="Put a LoRA on a model; what it holds for the text encoder is left out.",
            inputs=[
                io.Model.Input("model", tooltip="The model; the input itself stays as it is."),
                lora_file(),
                _strength("strength_model", "the model"),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength_model: float) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(with_lora(model, None, lora_name, strength_model, 0.0)[0])


class CLIPSetLastLayer(io.ComfyNode):
    """Stop the text encoder at an earlier layer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CLIPSetLastLayer",
            display_name="CLIP Set Last Layer",
            category="conditioning",
            description="Take the output of an earlier layer of the text encoder (clip skip).",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder; the input itself stays as it is."),
                io.Int.Input(
                    "stop_at_clip_layer",
                    default=-1,
                    min=-24,
                    max=-1,
                    step=1,
                    advanced=True,
                    tooltip="The layer, counted from the end: -1 is the last.",
                ),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, stop_at_clip_layer: int) -> io.NodeOutput:
        """Return the clone."""
        clone = clip.clone()
        clone.clip_layer(stop_at_clip_layer)
        return io.NodeOutput(clone)


NODES = [LoraLoader, LoraLoaderModelOnly, CLIPSetLastLayer]
