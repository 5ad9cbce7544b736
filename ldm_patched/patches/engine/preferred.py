"""The attention functions that a checkpoint prefers: ComfyUI from 0.40 on keeps one in each layer.

ComfyUI's `wrap_attn` runs the function of a layer only where no override stands in the slot, and an override is not
told of it. So what stands there finds it by the block and the kind of a call, and runs it where it has nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..addressing.blocks import block_modules
from ..addressing.families import family_of_net
from ..record.run import AttentionId

LAYER = "comfy_attention"  # ComfyUI's name of what holds the function; it has none where the machine cannot run it
Preferences = Mapping[AttentionId, Callable[..., Tensor]]


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
    """Return whether a layer prefers a function that nobody can tell from its call, as those outside of the blocks."""
    return len(list(_functions(net))) > len(found)


def _functions(module: Any) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    for name, layer in module.named_modules():
        function = getattr(layer, "function", None) if name.rpartition(".")[2] == LAYER else None
        if function is not None:
            yield name, function


def preferred(found: Preferences, attention: AttentionId) -> Callable[..., Tensor] | None:
    """Return the function that an attention prefers; None for none, or where its kind is not told and kinds differ."""
    block, kind = attention
    if kind is not None:
        return found.get(attention)
    both = {found[block, kind] for kind in ("self", "cross") if (block, kind) in found}
    return both.pop() if len(both) == 1 else None
