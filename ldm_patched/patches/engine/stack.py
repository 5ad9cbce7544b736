"""Composition of replace patches: every owner of one attention slot calls the next, the attention itself comes last.

A model keeps its layers beside the slots, and they enter the slots in each call of the model: what other nodes find in
a slot is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ...ldm.modules.backends import dispatch
from ..addressing.address import BlockId
from ..patcher import Patch, TransformerOptions
from .gate import Gate
from .guest import Guest
from .site import LENGTH, Site

CONTEXT = "patchbay_prompt"  # in the options of a call: the context (b, n, c) that the model gets
ATTEND = "patchbay_attend"  # in the options of a model: the host's attention function, for stacks made in a call
LAYERS = "patchbay_layers"  # in the options of a model: slot -> address -> the layers that were put there
KINDS = {"attn1": "self", "attn2": "cross"}

Key = tuple[Any, ...]  # of patches_replace: (block, number) or (block, number, index)
Attend = Callable[..., Tensor]  # the attention function of the host
Innermost = Callable[[Tensor, Tensor, Tensor, Site], Tensor]  # on (b, n, h * d)


def default_attend(*args: Any, **kwargs: Any) -> Tensor:
    """Compute attention by the library's function, the one that is assigned when it is called."""
    return dispatch.optimized_attention(*args, **kwargs)


class Inner(Protocol):
    """The call below a layer, q, k, v and result (b, h, n, d); another site tells those below what has changed."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, site: Site = ..., /) -> Tensor: ...


Act = Callable[[Site, Tensor, Tensor, Tensor, Inner], Tensor]


@dataclass(frozen=True, repr=False)
class Layer:
    """One owner of the slot: what a method does around the attention, in its blocks and window.

    Args:
        idle: returns why there is nothing to do in a call, "" without telling; None where there is.
        counted: whether the report counts its uses.
        piecemeal: whether it hands the image on in parts, which are no picture to others.
        listens: whether it hands on and returns what it gets.
    """

    gate: Gate
    act: Act
    idle: Callable[[Site, Tensor, Tensor], str | None] | None = None
    counted: bool = True
    piecemeal: bool = False
    listens: bool = False

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

    def below(self, site: Site, got: tuple[Tensor, Tensor], gives: tuple[Tensor, Tensor]) -> Site:
        """Return the site of what it hands on, queries and keys (b, h, n, d).

        Merging, tiles and windows hand on other rows or tokens than they got.
        """
        (q, k), (new_q, new_k) = got, gives
        if (new_q.shape[0], new_q.shape[2]) != (site.batch, site.tokens):
            site = site.but(batch=new_q.shape[0], tokens=new_q.shape[2])
        if (new_q.shape[2], new_k.shape[2]) != (q.shape[2], k.shape[2]):
            site = site.but(changed_by=self.gate.entry.name)
        return site


@dataclass(frozen=True)
class Stack:
    """The replace patch of one attention in one call of the model: `layers` from the first attached (innermost).

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
        cut = self.slot == "attn1" and _cut_alone(q, k)
        if cut:  # attention functions read k, v in the batch of q
            k, v = (x.reshape(len(q), -1, x.shape[-1]) for x in (k, v))
        site = Site(extra_options, KINDS[self.slot], len(q), q.shape[1], cut=cut, length=extra_options.get(LENGTH))
        innermost = self._innermost(q, k, v, extra_options)
        if len(k) < len(q):
            by = (site.run and site.run.others.get(f"{self.slot}_patch")) or "another patch"
            self._step_back(extra_options, f"{by} made {len(k)} rows of keys and {len(q)} of queries")
            return innermost(q, k, v, site)
        if len(k) > len(q) and site.run is not None:
            site.run.more_rows.add((site.block, site.kind))
        q, k, v = (split(x[: len(q)], site.heads) for x in (q, k, v))
        out = self._run(len(self.layers), site, q, k, v, innermost)
        if isinstance(innermost, Guest):
            innermost.see_the_call()
        return merged(out)

    def _innermost(self, q: Tensor, k: Tensor, v: Tensor, options: TransformerOptions) -> Innermost:
        if self.foreign is None:
            return self._attention
        return Guest(self.foreign, self.slot, q, k, v, options, [layer.gate.entry for layer in self.layers])

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        precision = site.options.get("attn_precision")
        return self.attend(q, k, v, site.heads, attn_precision=precision, transformer_options=site.options)

    def _step_back(self, options: TransformerOptions, why: str) -> None:
        for layer in self.layers:
            if layer.gate.weight(options):
                layer.gate.skip(options, why)

    def _run(self, depth: int, site: Site, q: Tensor, k: Tensor, v: Tensor, innermost: Innermost) -> Tensor:
        if not depth:
            return split(innermost(merged(q), merged(k), merged(v), site), site.heads)
        layer, given_q, given_k, given_v = self.layers[depth - 1], q, k, v

        def inner(q: Tensor, k: Tensor, v: Tensor, site: Site = site) -> Tensor:
            if isinstance(innermost, Guest) and q is given_q and not (k is given_k and v is given_v):
                innermost.steered_by.add(layer.gate.entry.number)
            return self._run(depth - 1, layer.below(site, (given_q, given_k), (q, k)), q, k, v, innermost)

        return layer(site, q, k, v, inner)


def _cut_alone(q: Tensor, k: Tensor) -> bool:
    """Return whether q are the same tokens as k in more rows: ComfyUI's HyperTile cuts the image of q alone."""
    return len(q) > len(k) and len(q) % len(k) == 0 and q.shape[:2].numel() == k.shape[:2].numel()


def split(x: Tensor, heads: int) -> Tensor:
    """View (b, n, h * d) as (b, h, n, d)."""
    by_head: Tensor = x.unflatten(-1, (heads, -1))
    return by_head.transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    """Return (b, h, n, d) as (b, n, h * d)."""
    return x.transpose(1, 2).flatten(2)


def stacked(
    slot: str, slots: Mapping[Key, Patch], layers: Mapping[BlockId, tuple[Layer, ...]], attend: Attend
) -> dict[Key, Patch]:
    """Return the entries of a slot (address -> patch) with the layers of each block around what is there.

    The exact address (block, number, index) goes before (block, number), as the UNet looks them up.
    """
    found = dict(slots)
    for address, ours in layers.items():
        current = slots.get(address)
        if isinstance(current, Stack):  # the options of a call were used for one more
            current = current.foreign if current.exact else None
        exact = current is not None
        found[address] = Stack(slot, ours, current if exact else slots.get(address[:2]), attend, exact)
    return found


class Gated(Protocol):
    """What acts in the blocks of a gate: a layer around an attention, or the gain of a block."""

    @property
    def gate(self) -> Gate: ...


def with_layer(options: TransformerOptions, slot: str, layer: Gated) -> TransformerOptions:
    """Return options with a layer on top of those of its blocks."""
    known = options.get(LAYERS, {})
    there = known.get(slot, {})
    # a set has another order in every process
    more = {block: (*there.get(block, ()), layer) for block in sorted(layer.gate.blocks)}
    return {**options, LAYERS: {**known, slot: {**there, **more}}}
