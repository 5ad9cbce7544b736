"""Load a ControlNet file: the LDM layout, diffusers' layout, and union ControlNets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from ..controlnet.cldm import ControlNet as ControlModel
from ..controlnet.control import ControlNet
from ..controlnet.union import UnionControlNet
from ..files.checkpoint import CheckpointError
from ..files.diffusers_keys import unet_from_diffusers
from ..files.model_file import model_file, report_unused
from ..files.shapes import Shapes, find_prefix, side
from ..files.weights import Source, Weights, WeightView, load_weights, under
from ..modules import model_management
from ..modules.model_patcher import ModelPatcher
from ..modules.ops import disable_weight_init
from .model_detection import detect_unet, model_config
from .sd import image_format

LDM_KEY = "zero_convs.0.0.weight"
HINT = "input_hint_block.0.weight"
DIFFUSERS_KEY = "controlnet_cond_embedding.conv_in.weight"
SHUFFLE_ENDINGS = ("_shuffle", "_shuffle_fp16")  # of the names of ControlNets that use the mean of their output

# a key that tells what else a file is
OTHERS = {
    "lora_controlnet": "a control-LoRA",
    "difference": "the difference of a ControlNet to its model",
    "adapter.conv_in.weight": "a T2I adapter",
    "adapter.body.0.in_conv.weight": "a T2I adapter",
    "body.0.in_conv.weight": "a T2I adapter",
    "body.0.block1.weight": "a T2I adapter",
    "controlnet_blocks.0.weight": "a ControlNet for a transformer such as SD3 or Flux",
    "controlnet_blocks.0.linear.weight": "a ControlNet for a transformer such as SD3 or Flux",
}


def load_controlnet(path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> ControlNet:
    """Load a ControlNet for a UNet; half weights compute in float32 on a CPU unless `dtype` says otherwise.

    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with model_file(path) as file:
        weights = find_controlnet(file)
        config = controlnet_config(weights.shapes)
        model = build_controlnet(weights, config, dtype)
        report_unused(file, weights.prefix)
    return ControlNet(model, global_average_pooling=file.path.stem.endswith(SHUFFLE_ENDINGS))


def find_controlnet(file: Weights) -> WeightView:
    """Return a ControlNet in the LDM layout, without prefix.

    Raises CheckpointError for anything else, saying what it seems to be.
    """
    other = next((kind for key, kind in OTHERS.items() if key in file), None)
    prefix = find_prefix(file.shapes, ("control_model.", ""), LDM_KEY)
    if other is None and prefix is not None:
        return under(file, prefix)
    if other is None and DIFFUSERS_KEY in file:
        return WeightView(file, {here: Source(there) for here, there in controlnet_from_diffusers(file.shapes).items()})
    found = other or f"{', '.join(sorted(file.shapes)[:3])}, ..."
    raise CheckpointError(
        f"found {found}; expected a ControlNet for a UNet, with control_model.{LDM_KEY}, {LDM_KEY} or {DIFFUSERS_KEY}"
    )


def controlnet_from_diffusers(shapes: Shapes) -> dict[str, str]:
    """Return {LDM key: diffusers key} for the state-dict keys of a ControlNet in diffusers' layout."""
    hint = "controlnet_cond_embedding."
    blocks = {int(found[1]) for key in shapes if (found := re.match(rf"{re.escape(hint)}blocks\.(\d+)\.", key))}
    renamed = {f"{hint}blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in blocks}
    renamed |= {f"{hint}conv_in": "input_hint_block.0", f"{hint}conv_out": f"input_hint_block.{2 * len(blocks) + 2}"}
    renamed["controlnet_mid_block"] = "middle_block_out.0"
    names = {here: there for here, there in unet_from_diffusers(shapes).items() if there in shapes}
    for key in shapes:
        module, _, end = key.rpartition(".")
        if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)", module):
            names[f"zero_convs.{match[1]}.0.{end}"] = key
        elif module in renamed:
            names[f"{renamed[module]}.{end}"] = key
        elif key == "task_embedding" or key.startswith(("transformer_layes.", "spatial_ch_projs.", "control_add_")):
            names[key.replace(".attn.in_proj_", ".attn.in_proj.")] = key
    return names


def controlnet_config(shapes: Shapes) -> dict[str, Any]:
    """Return the arguments of the network from the keys and shapes of a ControlNet in the LDM layout."""
    # it has no output of its own; detection is told that one gives the channels that the input takes
    first = shapes.get("input_blocks.0.0.weight", (0, 0))
    config = dict(model_config(detect_unet({**shapes, "out.2.weight": first[1:]})).unet)
    if any(key.startswith(("task_embedding", "control_add_embedding.")) for key in shapes):
        config["union_controlnet_num_control_type"] = side(shapes, "task_embedding")
    if config["transformer_depth_middle"] == -2:
        raise CheckpointError("middle_block.0.in_layers.0.weight is missing; the file is incomplete or of another kind")
    del config["out_channels"], config["transformer_depth_output"]
    config["hint_channels"] = side({HINT: (0, 3), **shapes}, HINT, 1)
    return config


def build_controlnet(weights: Weights, config: Mapping[str, Any], dtype: torch.dtype | None = None) -> ModelPatcher:
    """Build the network of a ControlNet and give it its weights."""
    device = model_management.get_torch_device()
    dtype = dtype or model_management.unet_dtype(device)
    network = UnionControlNet if "union_controlnet_num_control_type" in config else ControlModel
    model = network(**config, dtype=dtype, device="meta", operations=disable_weight_init)
    _check_unused(model, weights)
    load_weights(model, weights, "", dtype, image_format(device))
    return ModelPatcher(model, device, model_management.unet_offload_device())


def _check_unused(model: ControlModel, weights: Weights) -> None:
    """Refuse a file that has more in a part of the network than detection made of it: a key it looks at is missing."""
    parts, known = dict(model.named_children()), model.state_dict()
    for key in weights.shapes:
        if key not in known and key.partition(".")[0] in parts and key.endswith((".weight", ".bias")):
            raise CheckpointError(f"{key} has no place in the network; the file is incomplete or of another kind")
