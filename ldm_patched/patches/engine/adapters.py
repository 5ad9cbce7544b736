"""How model families call attention patches: each adapter turns such a call into that of a UNet's patch.

A patch then gets tokens (b, n, c) of the image alone; where text and image attend together, the text's stay as they
are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..addressing.address import AddressError
from ..addressing.families import HIDDEN, JOINT, JOINT_INPUT, UNET, Family
from ..patcher import Patch, Patcher, TransformerOptions
from .gate import Gate
from .host import Host
from .method import Method
from .place import Listed, Listing, Place, TokensIn, TokensOut, Wrap
from .prompts import MorePrompts
from .rows import WANTED
from .site import Site
from .stack import KINDS, Inner, merged, split
from .tokens import LATENT

# Why a method has no place
SKIPS = "they have no skip connections and nothing between attentions"
UNTOLD = "nobody has written down what their blocks hand on"
SHARED = "they have one attention for text and image, whose queries and results nobody can tell apart"
UNPROJECTED = "it puts tokens in before the model projects them, and these models let nobody in there"
ATTN1_ATTN2 = "attn1.q, attn1.k, attn1.v, attn1.out, and the same of attn2"
WHOLE = "Block Skip, Block Scale and Skip Layer Guidance, with kind block,"
PATCHES = (1, 2, 4, 8, 16)  # latent pixels along a side of a token


@dataclass(frozen=True)
class Adapter:
    """A patch as one family calls it."""

    patch: Patch

    @property
    def gate(self) -> Gate:
        """Return the gate of the patch."""
        gate: Gate = self.patch.gate  # type: ignore[attr-defined]
        return gate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class JointInput(Adapter):
    """An attn1_patch of Flux-like models: after the projection, before the positions, text and image in one."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, pe: object, attn_mask: object, extra_options: TransformerOptions
    ) -> dict[str, Tensor]:
        start = _text_tokens(extra_options)
        before = [x[:, :, start:].transpose(1, 2).flatten(2) for x in (q, k, v)]  # (b, n, h * d)
        after = self.patch(*before, on_image(extra_options, before[0].shape[1]))
        changed = [new is not old for new, old in zip(after, before, strict=True)]
        return {
            name: _heads(x, new, start) for name, x, new, c in zip("qkv", (q, k, v), after, changed, strict=True) if c
        }


class HiddenInput(Adapter):
    """An attn1_patch or attn2_patch of Cosmos-like models: hidden states and context before the projection."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, pe: object, attn_mask: object, extra_options: TransformerOptions
    ) -> dict[str, Tensor]:
        after = self.patch(q, k, v, on_image(extra_options, q.shape[1]))
        return {name: new for name, new, old in zip("qkv", after, (q, k, v), strict=True) if new is not old}


def _text_tokens(options: TransformerOptions) -> int:
    start: int = options.get("img_slice", (0,))[0]
    return start


def _heads(x: Tensor, new: Tensor, start: int) -> Tensor:
    """Put the image's tokens (b, n, h * d) behind the text's in x (b, h, m + n, d)."""
    return torch.cat([x[:, :, :start], new.unflatten(2, (x.shape[1], -1)).transpose(1, 2)], dim=2)


def on_image(options: TransformerOptions, tokens: int) -> TransformerOptions:
    """Return the options of a call with the grid of the image's tokens, where they are those of one image."""
    latent = options.get(LATENT)
    if latent is None or math.prod(latent[2:-2]) != 1:
        return options
    height, width = latent[-2:]
    for size in PATCHES:
        grid = [-(-height // size), -(-width // size)]  # models pad the latent to whole tokens
        if math.prod(grid) == tokens:
            return {**options, "activations_shape": [latent[0], 0, *grid]}
    return options


# For each contract: a UNet's slot -> by which adapter it is called before positions.
ADAPTERS: dict[str, dict[str, type[Adapter]]] = {
    JOINT: {"attn1_patch": JointInput},
    JOINT_INPUT: {"attn1_patch": JointInput},
    HIDDEN: {"attn1_patch": HiddenInput, "attn2_patch": HiddenInput},
}


def adapt(place: Place, family: Family, method: Method) -> Place:
    """Return a place of a method as a family takes it.

    Raises AddressError, which says what would work, where the family calls no such patch or it could change nothing.
    """
    if family.calls == UNET or not isinstance(place, Listed):
        return place
    if isinstance(place.patch, MorePrompts) and not family.rich:
        return AskForRows(place.patch)
    adapter, patch = ADAPTERS.get(family.calls, {}).get(place.slot), place.patch
    before = isinstance(patch, TokensIn) and patch.part != "v" and not method.scales_scores
    if adapter is not None and (before or method.unprojected):
        return Listed(place.slot, adapter(patch))
    if method.unprojected:
        raise refusal(family, method.name, UNPROJECTED)
    slot = place.slot.partition("_")[0]
    joint = bool(family.order) and slot == "attn2"
    if isinstance(patch, TokensIn) and not (joint and patch.part == "q"):
        return Wrap(slot, patch.gate, ChangedPart(patch), counted=patch.counted)
    if isinstance(patch, TokensOut) and slot in KINDS and not joint:
        return Wrap(slot, patch.gate, ChangedOut(patch), counted=patch.counted)
    raise refusal(family, method.name, _why(place.slot, isinstance(patch, Listing), joint))


def _why(slot: str, changes: bool, joint: bool) -> str:
    if slot == "attn2_patch" and not changes:
        return UNPROJECTED
    return SHARED if joint and slot != "middle_patch" else SKIPS


@dataclass(frozen=True)
class AskForRows:
    """The place of more prompts on a transformer."""

    patch: MorePrompts

    def put(self, clone: Patcher, host: Host) -> None:
        """Ask for a row for each prompt."""
        options = clone.model_options["transformer_options"]
        options[WANTED] = (*options.get(WANTED, ()), self.patch)


@dataclass(frozen=True)
class ChangedPart:
    """A change of queries, keys or values, as a layer makes it."""

    patch: TokensIn

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        parts = {"q": q, "k": k, "v": v}
        x = parts[self.patch.part]
        parts[self.patch.part] = split(self.patch.act(site.but(tokens=x.shape[2]), merged(x)), x.shape[1])
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
