"""Load a ControlNet file: the LDM and diffusers' layout, unions, T2I adapters, control-LoRAs and differences."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..controlnet.cldm import ControlNet as ControlModel
from ..controlnet.control import ControlNet
from ..controlnet.control_lora import MARKER, ControlLora
from ..controlnet.t2i_adapter import Adapter, T2IAdapter, adapter_config
from ..controlnet.union import UnionControlNet
from ..files.checkpoint import CheckpointError
from ..files.diffusers_keys import unet_from_diffusers
from ..files.model_file import model_file, report_unused
from ..files.shapes import Shapes, find_prefix, side
from ..files.weights import Source, Weights, WeightView, load_weights, under
from ..modules import model_management
from ..modules.model_patcher import ModelPatcher
from ..modules.ops import disable_weight_init
from ..modules.weight_patches import calculate_weight
from .model_detection import detect_unet, model_config
from .sd import image_format

LDM_KEY = "zero_convs.0.0.weight"
HINT = "input_hint_block.0.weight"
DIFFUSERS_KEY = "controlnet_cond_embedding.conv_in.weight"
DIFFERENCE, UNET = "difference", "diffusion_model."
DIFFUSERS_ADAPTER = re.compile(r"^adapter\.body\.(\d+)\.(?:resnets\.(\d+)\.)?")
SHUFFLE_ENDINGS = ("_shuffle", "_shuffle_fp16")  # of the names of ControlNets that use the mean of their output

# a key that tells what else a file is
OTHERS = {
    DIFFERENCE: "the difference of a ControlNet to its model, which DiffControlNetLoader loads",
    "controlnet_blocks.0.weight": "a ControlNet for a transformer such as SD3 or Flux",
    "controlnet_blocks.0.linear.weight": "a ControlNet for a transformer such as SD3 or Flux",
}


def load_controlnet(
    path: str | os.PathLike[str], dtype: torch.dtype | None = None, base: ModelPatcher | None = None
) -> ControlNet:
    """Load a ControlNet, T2I adapter or control-LoRA for a UNet; half weights compute in float32 on a CPU by default.

    `base` is the model that the file of a difference is added to.
    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with model_file(path) as file:
        if MARKER in file:
            side(file.shapes, HINT, 1)  # that it is there
            return ControlLora({key: file[key] for key in file if key != MARKER})
        adapter = adapter_of(file)
        if adapter is not None:
            return T2IAdapter(build_adapter(adapter, dtype))
        weights = find_controlnet(file, base is not None)
        config = controlnet_config(weights.shapes)
        model = build_controlnet(weights, config, dtype)
        if DIFFERENCE in file and base is not None:
            add_weights(model.model, base)
        report_unused(file, weights.prefix)
    return ControlNet(model, global_average_pooling=file.path.stem.endswith(SHUFFLE_ENDINGS))


def adapter_of(file: Weights) -> WeightView | None:
    """Return a T2I adapter in its own layout, or None."""
    names = {key: DIFFUSERS_ADAPTER.sub(_of_diffusers, key).removeprefix("adapter.") for key in file.shapes}
    view = WeightView(file, {name: Source(key) for key, name in names.items()})
    return view if adapter_config(view.shapes) is not None else None


def _of_diffusers(found: re.Match[str]) -> str:
    """Return the name of a block: a stage has two, and what halves the picture belongs to the first."""
    return f"body.{int(found[1]) * 2 + int(found[2] or 0)}."


def build_adapter(weights: WeightView, dtype: torch.dtype | None = None) -> ModelPatcher:
    """Build the network of a T2I adapter and give it its weights."""
    device = model_management.get_torch_device()
    dtype = dtype or model_management.unet_dtype(device)
    model = Adapter(adapter_config(weights.shapes) or {}, dtype=dtype, device="meta")
    load_weights(model, weights, "", dtype, image_format(device))
    return ModelPatcher(model, device, model_management.unet_offload_device())


def add_weights(network: nn.Module, base: ModelPatcher) -> None:
    """Add the weights of a model, with its own patches, to those of a ControlNet that is a difference to it."""
    own = network.state_dict()
    for key, ((weight, _), *patches) in base.get_key_patches(UNET).items():
        name = key.removeprefix(UNET)
        if name in own and own[name].shape == weight.shape:
            own[name].add_(calculate_weight(patches, weight, key).to(own[name]))


def find_controlnet(file: Weights, has_base: bool = False) -> WeightView:
    """Return a ControlNet in the LDM layout, without prefix; that of a difference only where there is a model for it.

    Raises CheckpointError for anything else, saying what it seems to be.
    """
    other = next((kind for key, kind in OTHERS.items() if key in file and not (has_base and key == DIFFERENCE)), None)
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
