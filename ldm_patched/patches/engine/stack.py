"""Composition of replace patches: every owner of one attention slot calls the next, the attention itself comes last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ...ldm.modules.backends import dispatch
from ..addressing.address import BlockId
from ..patcher import Patch, TransformerOptions
from .gate import Gate
from .site import LENGTH, Site

CONTEXT = "patchbay_prompt"  # in the options of a call: the context (b, n, c) that the model gets
ATTEND = "patchbay_attend"  # in the options of a model: the host's attention function, for stacks made in a call
LAYERS = "patchbay_layers"  # in the options of a model: slot -> address -> the layers that were put there
KINDS = {"attn1": "self", "attn2": "cross"}

Key = tuple[Any, ...]  # of patches_replace: (block, number) or (block, number, index)
Attend = Callable[..., Tensor]  # the attention function of the host


def default_attend(*args: Any, **kwargs: Any) -> Tensor:
    """Compute attention by the library's function, the one that is assigned when it is called."""
    return dispatch.optimized_attention(*args, **kwargs)


class Inner(Protocol):
    """The call below a layer, q, k, v and result (b, h, n, d); another site tells those below what has changed."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site = ..., /) -> Tensor: ...


Act = Callable[[Site, Tensor, Tensor, Tensor, Inner], Tensor]


@dataclass(frozen=True)
class Layer:
    """One owner of the slot: what a method does around the attention, in its blocks and window.

    Args:
        idle: returns why there is nothing to do in a call, "" without telling; None where there is.
        counted: whether the report counts its uses.
    """

    gate: Gate
    act: Act
    idle: Callable[[Site, Tensor, Tensor], str | None] | None = None
    counted: bool = True

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        curve = self.gate.weight(site.options)
        if curve == 0.0:
            return inner(q, k, v)
        self.gate.reach(site.options)
        here = site.but(gate=self.gate, curve=curve, weight=curve * self.gate.strength)
        reason = self.idle(here, q, k) if self.idle is not None else None
        if reason is not None:
            if reason:
                here.skip(reason)
            return inner(q, k, v)
        if self.counted:
            self.gate.count(site.options)
        return self.act(here, q, k, v, inner)


@dataclass(frozen=True)
class Stack:
    """The replace patch of one slot: `layers` from the first attached (innermost) to the last.

    Inside them runs the foreign patch of the slot, or else the host's attention. `exact` tells that the foreign patch
    was addressed to this very transformer block, not to all of its (block, number).
    """

    slot: str
    layers: tuple[Layer, ...]
    foreign: Callable[..., Tensor] | None = None
    attend: Attend = default_attend
    exact: bool = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: TransformerOptions) -> Tensor:
        """Run the slot on q, k, v (b, n, h * d); the override and the rules of the model hold inside.

        A foreign patch that no layer called is called for itself: it may record what it sees, as self-attention
        guidance does, or count.
        """
        cut = len(k) != len(q)
        if cut:  # ComfyUI's HyperTile cuts q alone; attention functions then read k, v in its batch
            k, v = (x.reshape(len(q), -1, x.shape[-1]) for x in (k, v))
        site = Site(extra_options, KINDS[self.slot], len(q), q.shape[1], cut=cut, length=extra_options.get(LENGTH))
        if self.foreign is None:
            return self._merged(site, q, k, v)
        foreign, called = self.foreign, False

        def watched(*args: Any) -> Tensor:
            nonlocal called
            called = True
            return foreign(*args)

        out = replace(self, foreign=watched)._merged(site, q, k, v)
        if not called:
            foreign(q, k, v, extra_options)
        return out

    def _merged(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = site.heads
        return merged(self._run(len(self.layers), site, split(q, heads), split(k, heads), split(v, heads)))

    def _run(self, depth: int, site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if depth:

            def inner(q: Tensor, k: Tensor, v: Tensor, site: Site = site) -> Tensor:
                # merging, tiles and windows hand on other rows or tokens than they got
                if q.shape[0] != site.batch or q.shape[2] != site.tokens:
                    site = site.but(batch=q.shape[0], tokens=q.shape[2])
                return self._run(depth - 1, site, q, k, v)

            return self.layers[depth - 1](site, q, k, v, inner)
        q, k, v = merged(q), merged(k), merged(v)
        if self.foreign is not None:
            return split(self.foreign(q, k, v, site.options), site.heads)
        precision = site.options.get("attn_precision")
        out = self.attend(q, k, v, site.heads, attn_precision=precision, transformer_options=site.options)
        return split(out, site.heads)

    # What hosts call on a patch, for the foreign one; where that is not exact it still has its own place

    def to(self, target: torch.device | torch.dtype) -> Stack:
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


def split(x: Tensor, heads: int) -> Tensor:
    """View (b, n, h * d) as (b, h, n, d)."""
    by_head: Tensor = x.unflatten(-1, (heads, -1))
    return by_head.transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    """Return (b, h, n, d) as (b, n, h * d)."""
    return x.transpose(1, 2).flatten(2)


def push(slot: str, existing: Mapping[Key, Patch], address: BlockId, layer: Layer, attend: Attend) -> Stack:
    """Return the stack for a slot after `layer` was put on what `existing` (address -> patch) runs there now.

    The exact address (block, number, index) goes before (block, number), as the UNet looks them up.
    """
    exact = address in existing
    current = existing[address] if exact else existing.get(address[:2])
    if isinstance(current, Stack):
        return replace(current, layers=(*current.layers, layer))
    return Stack(slot, (layer,), current, attend, exact)


def restore(
    slot: str, slots: Mapping[Key, Patch], layers: Mapping[BlockId, tuple[Layer, ...]], attend: Attend
) -> dict[Key, Patch]:
    """Return the entries of a slot with the layers of each block around what a later node put in their place.

    Hosts keep one entry for an address, so a node that takes the exact address of a stack throws the stack away.
    """
    found = dict(slots)
    for address, ours in layers.items():
        current = slots.get(address)
        if not isinstance(current, Stack):
            found[address] = Stack(slot, ours, current, attend, exact=True)
        elif current.layers is not ours:
            lost = tuple(layer for layer in ours if all(layer is not known for known in current.layers))
            found[address] = replace(current, layers=(*lost, *current.layers)) if lost else current
    return found


def uncover(slots: Mapping[Key, Patch]) -> dict[Key, Patch]:
    """Return the entries of a slot (address -> patch) with every stack around what was put on its block after it.

    A stack has an exact address, so it hides an entry for (block, number) that came later, such as that of a guidance
    node's extra pass.
    """
    return {address: _wrapped(patch, slots.get(address[:2])) for address, patch in slots.items()}


def _wrapped(patch: Patch, pair: Patch | None) -> Patch:
    if not isinstance(patch, Stack) or patch.exact or pair is None or isinstance(pair, Stack):
        return patch
    return patch if pair is patch.foreign else replace(patch, foreign=pair)
