"""How a method for the lists of a UNet's patches enters a transformer: as a layer, or before the projection.

A patch then gets tokens (b, n, c) of the image alone; where text and image attend together, the text's stay as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..addressing.address import AddressError
from ..addressing.families import HIDDEN, UNET, Family
from ..patcher import Patcher, TransformerOptions
from ..record.plan import KEY
from .gate import Gate
from .host import Host
from .method import Method
from .place import Listed, Place, TokensIn, TokensOut, Wrap
from .prompts import MorePrompts
from .rows import PREPARE_SAMPLING, ROWS, WANTED, estimate_rows
from .site import Site
from .stack import KINDS, Inner, merged, split
from .text_forward import tell_lengths

# Why a method has no place
SKIPS = "they have no skip connections and nothing between attentions"
UNTOLD = "nobody has written down what their blocks hand on"
ONE_ROW = "each further prompt is one more row of the batch, and they take one video at a time"
SHARED = "they have one attention for text and image, whose queries and results nobody can tell apart"
ATTN1_ATTN2 = "attn1.q, attn1.k, attn1.v, attn1.out, and the same of attn2"
WHOLE = "Block Skip, Block Scale and Skip Layer Guidance, with kind block,"


@dataclass(frozen=True)
class HiddenInput:
    """An attn1_patch or attn2_patch of Cosmos-like models: hidden states and context before the projection."""

    patch: TokensIn

    @property
    def gate(self) -> Gate:
        """Return the gate of the patch."""
        return self.patch.gate

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, pe: object, attn_mask: object, extra_options: TransformerOptions
    ) -> dict[str, Tensor]:
        further = extra_options.get(ROWS) if self.patch.slot == "attn2" else None
        own = k.shape[1] if further is None else further.own  # behind them are further prompts, or nothing
        keys, values = (k, v) if own == k.shape[1] else (k[:, :own], v[:, :own])
        new_q, new_k, _ = self.patch(q, keys, values, extra_options)
        if new_k is None or new_k is keys:
            return {} if new_q is q else {"q": new_q}
        return {"k": new_k if keys is k else torch.cat([new_k, k[:, own:]], dim=1)}


def adapt(place: Place, family: Family, method: Method) -> Place:
    """Return a place of a method as a family takes it.

    Raises AddressError, which says what would work, where the family calls no such patch or it could change nothing.
    """
    if family.calls == UNET or not isinstance(place, Listed):
        return place
    if isinstance(place.patch, MorePrompts):
        if family.alone:
            raise refusal(family, method.name, ONE_ROW)
        return AskForRows(place.patch, family)
    patch, slot = place.patch, place.slot.partition("_")[0]
    if isinstance(patch, TokensIn) and family.calls == HIDDEN and patch.part != "v" and not method.scales_scores:
        return Listed(place.slot, HiddenInput(patch))
    joint = bool(family.order) and slot == "attn2"
    if isinstance(patch, TokensIn) and not (joint and patch.part == "q"):
        act = ChangedPart(patch, method.before_positions)
        return Wrap(slot, patch.gate, act, counted=patch.counted)
    if isinstance(patch, TokensOut) and slot in KINDS and not joint:
        return Wrap(slot, patch.gate, ChangedOut(patch), counted=patch.counted)
    raise refusal(family, method.name, SHARED if joint else SKIPS)


@dataclass(frozen=True)
class AskForRows:
    """The place of more prompts on a transformer: each a row of the batch, or columns where its family takes them."""

    patch: MorePrompts
    family: Family

    def put(self, clone: Patcher, host: Host) -> None:
        """Ask for each prompt, and tell the host's estimate of memory and the network of its rows."""
        options = clone.model_options["transformer_options"]
        clone.remove_wrappers_with_key(PREPARE_SAMPLING, KEY)  # a patcher adds a second one to the first
        if not self.family.columns:
            clone.add_wrapper_with_key(PREPARE_SAMPLING, KEY, estimate_rows)
            tell_lengths(clone, self.family)
        options[WANTED] = (*options.get(WANTED, ()), self.patch)


@dataclass(frozen=True)
class ChangedPart:
    """A change of queries, keys or values, as a layer makes it: those of queries and keys `before` their positions."""

    patch: TokensIn
    before: bool

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        parts = {"q": q, "k": k, "v": v}
        x = parts[self.patch.part]
        here = site.but(tokens=x.shape[2])

        def changed(x: Tensor) -> Tensor:
            return split(self.patch.act(here, merged(x)), x.shape[1])

        parts[self.patch.part] = here.before_positions(x, changed) if self.before else changed(x)
        return inner(parts["q"], parts["k"], parts["v"])


@dataclass(frozen=True)
class ChangedOut:
    """A change of the result, before its projection."""

    patch: TokensOut

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        return split(self.patch.act(site, merged(inner(q, k, v))), q.shape[1])


def refusal(family: Family, name: str, why: str = "") -> AddressError:
    """Return the error for a method that a family has no place for, with the reason."""
    if family.deaf:
        whole = f"; {WHOLE} work on whole blocks of them" if family.hands else ""
        return AddressError(f"{name}: {family.name} models cannot be patched: {family.deaf}{whole}")
    if family.closed:
        return AddressError(
            f"{name}: methods cannot act in the attention of {family.name} models: {family.closed}; backend rules work "
            "on them"
        )
    if not family.enterable:
        return AddressError(
            f"{name}: {family.name} models do not say which attention they call, so that only backend rules for 'all' "
            "work on them"
        )
    slots = "attn1.q, attn1.k, attn1.v, attn1.out, attn2.k and attn2.v" if family.order else ATTN1_ATTN2
    return AddressError(
        f"{name}: {family.name} models have no place for it: {why or SKIPS}; what works on them: Attention Patch on "
        f"{slots}, and methods of attention"
    )


def no_skips(family: Family, name: str) -> AddressError:
    """Return the error for a method of skip connections on a transformer, with what would do."""
    return AddressError(
        f"{name}: {family.name} models have no skip connections like those of a UNet; Block Scale with skip 1 scales "
        "what their blocks add"
    )
