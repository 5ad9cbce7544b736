"""Control-LoRAs (Stability AI 2023): a ControlNet whose encoder is the model's own with low-rank changes.

The changes are put together with the weights of the model that samples, so the network is there during a run only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..modules.ops import CastWeight, disable_weight_init
from ..sampling.model_base import BaseModel
from .cldm import ControlNet as ControlModel
from .control import ControlNet

MARKER = "lora_controlnet"
HINT = "input_hint_block.0.weight"
LEFT_OUT = ("out_channels", "transformer_depth_output")  # of a UNet's configuration


class ControlLora(ControlNet):
    """One use of a control-LoRA; copies share the weights of its file."""

    def __init__(self, weights: Mapping[str, Tensor], global_average_pooling: bool = False) -> None:
        super().__init__(None, global_average_pooling)
        self.weights = weights

    def _again(self) -> ControlLora:
        return ControlLora(self.weights, self.global_average_pooling)

    def pre_run(self, model: BaseModel, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Build the network on a model's weights as they are now, and turn the time windows into its sigmas."""
        super().pre_run(model, percent_to_timestep_function)
        self.control_model = built(self.weights, model)

    def cleanup(self) -> None:
        """Drop the network, and what belongs to a run in the whole chain."""
        self.control_model = None
        super().cleanup()


def built(weights: Mapping[str, Tensor], model: BaseModel) -> ControlModel:
    """Return the network of a control-LoRA for a model; weights that it does not change are the model's tensors.

    Raises ValueError where the file does not fit the model.
    """
    config = {key: value for key, value in model.model_config.unet.items() if key not in LEFT_OUT}
    dtype = model.get_dtype_inference()
    kind: dict[str, Any] = {"dtype": dtype, "device": "meta", "operations": disable_weight_init}
    network = ControlModel(**config, hint_channels=weights[HINT].shape[1], **kind)
    state = {key: _weight(key, weights, model, dtype) for key in network.state_dict()}
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the control-LoRA does not fit the model: {str(error).splitlines()[-1].strip()}") from None
    return network.requires_grad_(False).eval()


def _weight(key: str, weights: Mapping[str, Tensor], model: BaseModel, dtype: torch.dtype) -> Tensor:
    unet = model.diffusion_model
    device = next(unet.parameters()).device
    if key in weights:
        return weights[key].to(device, dtype)
    path, _, name = key.rpartition(".")
    try:
        layer = unet.get_submodule(path)
        own: Tensor = getattr(layer, name).detach()
    except AttributeError:
        raise ValueError(f"the control-LoRA lacks {key}, and so does the model") from None
    if name != "weight" or f"{path}.up" not in weights:
        return own if own.dtype == dtype else own.to(dtype)
    own = layer.full_weight(own) if isinstance(layer, CastWeight) else own
    up, down = (weights[f"{path}.{part}"].to(device, dtype).flatten(1) for part in ("up", "down"))
    try:
        return own.to(dtype) + (up @ down).reshape(own.shape)
    except RuntimeError:
        shapes = f"{tuple(up.shape)} and {tuple(down.shape)} for {tuple(own.shape)}"
        raise ValueError(f"the control-LoRA does not fit the model: {path} has {shapes}") from None
