"""The attention functions that a checkpoint prefers: ComfyUI from 0.40 on keeps one in each layer.

ComfyUI's `wrap_attn` runs the function of a layer only where no override stands in the slot, and an override is not
told of it. So what stands there finds it by the block and the kind of a call, or is told by the forward of a layer
outside of the blocks, and runs it where it has nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..addressing.blocks import block_modules
from ..addressing.families import family_of_net, takes_options
from ..patcher import Patcher, TransformerOptions
from ..record.run import AttentionId
from .block_forward import NETWORK, BlockForward, outside, place_of_options

LAYER = "comfy_attention"  # ComfyUI's name of what holds the function; it has none where the machine cannot run it
TOLD = "patchbay_layer"  # in the options of a call of a layer outside of the blocks: what holds its function
Preferences = Mapping[AttentionId, Callable[..., Tensor]]


@dataclass(frozen=True)
class LayerForward(BlockForward):
    """The forward of a layer outside of the blocks, which tells its calls what holds the function that it prefers."""

    layer: Any = None

    def _named(self, options: TransformerOptions) -> TransformerOptions:
        return {**options, TOLD: self.layer}


def tell_layers(clone: Patcher) -> None:
    """Let the layers of a clone that stand outside of its blocks tell their calls; once for each clone."""
    for path, module in _outside(clone.model.diffusion_model):
        key = f"{NETWORK}.{path}.forward"
        forward = clone.get_model_object(key)
        if not isinstance(forward, LayerForward):
            told = LayerForward(forward, outside(), None, place_of_options(module), layer=getattr(module, LAYER))
            clone.add_object_patch(key, told)


def _outside(net: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and module of each layer outside of the blocks that can be told by the options of its forward."""
    found = [(path, module) for path, module in net.named_modules() if hasattr(module, LAYER)]
    blocks = block_modules(net, family_of_net(net)) if found else ()
    inside = {id(one) for _, block in blocks for one in block.modules()}
    for path, module in found:
        if id(module) not in inside and takes_options(module):
            yield path, module


def preferences(net: Any) -> Preferences:
    """Return the functions that the layers of a network prefer; none where one attention has two that differ.

    A LoRA may bring one, so the network is to be read while it is patched.
    """
    found: dict[AttentionId, set[Callable[..., Tensor]]] = {}
    for block, module in block_modules(net, family_of_net(net)):
        for name, function in _functions(module):
            found.setdefault((block, "cross" if "cross" in name or "attn2" in name else "self"), set()).add(function)
    return {attention: functions.pop() for attention, functions in found.items() if len(functions) == 1}


def hidden_by_an_override(net: Any, found: Preferences) -> bool:
    """Return whether a layer prefers a function that nobody can tell from its call."""
    told = [module for _, module in _outside(net) if getattr(module, LAYER).function is not None]
    return len(list(_functions(net))) > len(found) + len(told)


def _functions(module: Any) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    for name, layer in module.named_modules():
        function = getattr(layer, "function", None) if name.rpartition(".")[2] == LAYER else None
        if function is not None:
            yield name, function


def preferred(found: Preferences, attention: AttentionId, options: TransformerOptions) -> Callable[..., Tensor] | None:
    """Return the function that an attention prefers; None for none, or where its kind is not told and kinds differ."""
    if TOLD in options:
        function: Callable[..., Tensor] | None = options[TOLD].function
        return function
    block, kind = attention
    if kind is not None:
        return found.get(attention)
    both = {found[block, kind] for kind in ("self", "cross") if (block, kind) in found}
    return both.pop() if len(both) == 1 else None
