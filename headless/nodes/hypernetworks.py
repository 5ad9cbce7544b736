"""ComfyUI's core node that puts a hypernetwork on a model, for the embedded host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...ldm_patched.files.checkpoint import CheckpointError
from ...ldm_patched.files.torch_file import load_torch_file
from ..api import comfy_io as io
from ..api.session import current
from .declared import Nodes

NODES = Nodes("model/loaders")
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "swish": nn.Hardswish,  # as the web UI that trained them calls it
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softsign": nn.Softsign,
    "mish": nn.Mish,
}


@dataclass
class Hypernetwork:
    """Change keys and values of every attention by small networks, one pair for each number of channels."""

    networks: dict[int, nn.ModuleList]
    strength: float

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries as they are, and keys and values (b, tokens, c) with what the networks add."""
        if k.shape[-1] not in self.networks:
            return q, k, v
        of_keys, of_values = self.networks[k.shape[-1]]
        return q, k + of_keys(k) * self.strength, v + of_values(v) * self.strength

    def to(self, target: Any) -> Hypernetwork:
        """Move the networks to a device or dtype."""
        for pair in self.networks.values():
            pair.to(target)
        return self


def networks_of(values: Mapping[Any, Any]) -> dict[int, nn.ModuleList]:
    """Return the networks for keys and values by the number of channels.

    Raises CheckpointError for what is no hypernetwork.
    """
    activation = values.get("activation_func", "linear")
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"the activation {activation!r} is not known; known are {', '.join(ACTIVATIONS)}")
    pairs = {int(dim): pair for dim, pair in values.items() if str(dim).isdecimal()}
    if not pairs:
        raise CheckpointError("no hypernetwork found: expected networks by the number of channels, such as 320")
    try:
        return {
            dim: nn.ModuleList(_network(layers, values, ACTIVATIONS[activation]) for layers in pair[:2])
            for dim, pair in pairs.items()
        }
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the hypernetwork is damaged: {error}") from None


def _network(weights: Mapping[str, Tensor], settings: Mapping[Any, Any], activation: type[nn.Module]) -> nn.Sequential:
    """Return a network of linear layers, of which each but the last is followed by an activation and a norm."""
    names = [key.removesuffix(".weight") for key in weights if key.endswith(".weight")]
    normed = bool(settings.get("is_layer_norm", False))
    layers: list[nn.Module] = []
    for place in range(0, len(names), 2 if normed else 1):
        rows, columns = weights[f"{names[place]}.weight"].shape
        layers.append(_filled(nn.Linear(columns, rows), weights, names[place]))
        if activation is not nn.Identity and (place < len(names) - 1 or settings.get("activate_output", False)):
            layers.append(activation())
        if normed:
            layers.append(_filled(nn.LayerNorm(len(weights[f"{names[place + 1]}.weight"])), weights, names[place + 1]))
    return nn.Sequential(*layers)


def _filled(layer: nn.Module, weights: Mapping[str, Tensor], name: str) -> nn.Module:
    layer.load_state_dict({part: weights[f"{name}.{part}"].float() for part in ("weight", "bias")})
    return layer


@NODES.add(
    "HypernetworkLoader",
    "Load Hypernetwork",
    lambda: [
        io.Model.Input("model", tooltip="The model; the input itself stays as it is."),
        io.Combo.Input(
            "hypernetwork_name",
            options=current().folders.model_names("hypernetworks"),
            tooltip="A file in models/hypernetworks.",
        ),
        io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip="How strongly."),
    ],
    io.Model,
    reads={"hypernetwork_name": "hypernetworks"},
)
def hypernetwork_loader(model: Any, hypernetwork_name: str, strength: float) -> Any:
    """Put a hypernetwork on a model."""
    path = current().folders.model("hypernetworks", hypernetwork_name)
    try:
        networks = networks_of(load_torch_file(path))
    except CheckpointError as error:
        raise error if str(path) in str(error) else CheckpointError(f"{path}: {error}") from None
    for pair in networks.values():
        pair.requires_grad_(False).eval().to(torch.float32)
    patch, model = Hypernetwork(networks, strength), model.clone()
    model.set_model_attn1_patch(patch)
    model.set_model_attn2_patch(patch)
    return model
