"""Composition of replace patches: every owner of one attention slot calls the next, the attention itself comes last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from ..ldm.modules.backends.dispatch import optimized_attention
from .grid import CUT
from .targets import BlockId

CONTEXT = "patchbay_prompt"  # in the options of a call: the context (b, n, c) that the model gets

Attend = Callable[..., Tensor]  # the attention function of the host


class Inner(Protocol):
    """The call below a layer; `options` in place of the layer's own tells those below what has changed for them."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any] = ..., /) -> Tensor: ...


class Layer(Protocol):
    """One owner of the slot: gets q, k, v and the call below it, gives what comes out of the attention."""

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor: ...


@dataclass(frozen=True)
class Stack:
    """The replace patch of one slot: `layers` from the first attached (innermost) to the last.

    Inside them runs the foreign patch of the slot, or else the host's attention. `exact` tells that the foreign patch
    was addressed to this very transformer block, not to all of its (block, number).
    """

    layers: tuple[Layer, ...]
    foreign: Callable[..., Tensor] | None = None
    attend: Attend = optimized_attention
    exact: bool = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        """Run the slot on q, k, v (b, n, h * d); the override and the rules of the model hold inside.

        A foreign patch that no layer called is called for itself: it may record what it sees, as self-attention
        guidance does, or count.
        """
        if len(k) != len(q):  # ComfyUI's HyperTile cuts q alone; attention functions then read k, v in its batch
            k, v = (x.reshape(len(q), -1, x.shape[-1]) for x in (k, v))
            extra_options = {**extra_options, CUT: True}
        if self.foreign is None:
            return self._run(len(self.layers), q, k, v, extra_options)
        foreign, called = self.foreign, False

        def watched(*args: Any) -> Tensor:
            nonlocal called
            called = True
            return foreign(*args)

        out = replace(self, foreign=watched)._run(len(self.layers), q, k, v, extra_options)
        if not called:
            foreign(q, k, v, extra_options)
        return out

    def _run(self, depth: int, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        if depth:

            def inner(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any] = extra_options) -> Tensor:
                return self._run(depth - 1, q, k, v, options)

            return self.layers[depth - 1].around(inner, q, k, v, extra_options)
        if self.foreign is not None:
            return self.foreign(q, k, v, extra_options)
        precision = extra_options.get("attn_precision")
        return self.attend(
            q, k, v, extra_options["n_heads"], attn_precision=precision, transformer_options=extra_options
        )

    # What hosts call on a patch, for the foreign one; where that is not exact it still has its own place

    def to(self, target: Any) -> Stack:
        """Return the stack with its foreign patch moved to a device or dtype."""
        move = getattr(self.foreign, "to", None) if self.exact else None
        return self if move is None else replace(self, foreign=move(target))

    def models(self) -> list[Any]:
        """Return the models that the foreign patch brings along."""
        models = getattr(self.foreign, "models", None) if self.exact else None
        return [] if models is None else models()

    def cleanup(self) -> None:
        """Tell the foreign patch that sampling has ended."""
        cleanup = getattr(self.foreign, "cleanup", None) if self.exact else None
        if cleanup is not None:
            cleanup()


def push(existing: Mapping[Any, Any], address: BlockId, layer: Layer, attend: Attend) -> Stack:
    """Return the stack for a slot after `layer` was put on what `existing` (address -> patch) runs there now.

    The exact address (block, number, index) goes before (block, number), as the UNet looks them up.
    """
    exact = address in existing
    current = existing[address] if exact else existing.get(address[:2])
    if isinstance(current, Stack):
        return replace(current, layers=(*current.layers, layer))
    return Stack((layer,), current, attend, exact)


ATTEND = "patchbay_attend"  # in the options of a model: the host's attention function
LAYERS = "patchbay_layers"  # in the options of a model: slot -> address -> the layers that were put there


def restore(slots: Mapping[Any, Any], layers: Mapping[BlockId, tuple[Layer, ...]], attend: Attend) -> dict[Any, Any]:
    """Return the entries of a slot with the layers of each block around what a later node put in their place.

    Hosts keep one entry for an address, so a node that takes the exact address of a stack throws the stack away.
    """
    found = dict(slots)
    for address, ours in layers.items():
        current = slots.get(address)
        if not isinstance(current, Stack):
            found[address] = Stack(ours, current, attend, exact=True)
        elif current.layers is not ours:
            lost = tuple(layer for layer in ours if layer not in current.layers)
            found[address] = replace(current, layers=(*lost, *current.layers)) if lost else current
    return found


def uncover(slots: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the entries of a slot (address -> patch) with every stack around what was put on its block after it.

    A stack has an exact address, so it hides an entry for (block, number) that came later, such as that of a guidance
    node's extra pass.
    """
    return {address: _around(patch, slots.get(address[:2])) for address, patch in slots.items()}


def _around(patch: Any, pair: Any) -> Any:
    if not isinstance(patch, Stack) or patch.exact or pair is None or isinstance(pair, Stack):
        return patch
    return patch if pair is patch.foreign else replace(patch, foreign=pair)
