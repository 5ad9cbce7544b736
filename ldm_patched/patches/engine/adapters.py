"""How model families call attention patches: each adapter turns such a call into that of a UNet's patch.

A patch then gets tokens (b, n, c) of the image alone; where text and image attend together, the text's stay as they
are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..addressing.address import AddressError
from ..addressing.families import AFTER, HIDDEN, JOINT, JOINT_INPUT, UNET, Family
from ..patcher import Patch, TransformerOptions
from .call import LATENT
from .gate import Gate
from .method import Method
from .place import Listed, Place

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


class JointOutput(Adapter):
    """An attn1_output_patch of Flux-like models: the result (b, n, h * d) before its projection."""

    def __call__(self, out: Tensor, extra_options: TransformerOptions) -> Tensor:
        start = _text_tokens(extra_options)
        before = out[:, start:]
        after = self.patch(before, on_image(extra_options, before.shape[1]))
        return out if after is before else torch.cat([out[:, :start], after], dim=1)


class HiddenInput(Adapter):
    """An attn1_patch or attn2_patch of Cosmos-like models: hidden states and context before the projection."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, pe: object, attn_mask: object, extra_options: TransformerOptions
    ) -> dict[str, Tensor]:
        after = self.patch(q, k, v, on_image(extra_options, q.shape[1]))
        return {name: new for name, new, old in zip("qkv", after, (q, k, v), strict=True) if new is not old}


class AfterAttention(Adapter):
    """An attn1_patch of Wan: the result of self-attention before its projection."""

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        x, options = args["x"], args["transformer_options"]
        out: Tensor = self.patch(x, on_image(options, x.shape[1]))
        return out


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


# For each contract: a UNet's slot -> the slot that takes its patches here, and by which adapter.
ADAPTERS: dict[str, dict[str, tuple[str, type[Adapter]]]] = {
    JOINT: {"attn1_patch": ("attn1_patch", JointInput), "attn1_output_patch": ("attn1_output_patch", JointOutput)},
    JOINT_INPUT: {"attn1_patch": ("attn1_patch", JointInput)},
    HIDDEN: {"attn1_patch": ("attn1_patch", HiddenInput), "attn2_patch": ("attn2_patch", HiddenInput)},
    AFTER: {"attn1_output_patch": ("attn1_patch", AfterAttention)},
}
SLOTS = {
    "attn1_patch": ("attn1.q", "attn1.k", "attn1.v"),
    "attn2_patch": ("attn2.q", "attn2.k", "attn2.v"),
    "attn1_output_patch": ("attn1.out",),
}


def adapt(place: Place, family: Family, method: Method) -> Place:
    """Return a place of a method as a family takes it.

    Raises AddressError, which says what would work, where the family calls no such patch or it could change nothing.
    """
    if family.calls == UNET:
        return place
    adapters = ADAPTERS.get(family.calls, {})
    if not isinstance(place, Listed) or place.slot not in adapters:
        raise refusal(family, method.name)
    if family.calls == HIDDEN and method.scales_scores:
        raise AddressError(
            f"{method.name}: {family.name} models normalise queries and keys after this slot, so no factor on them "
            "changes anything; choose another operation, or v"
        )
    slot, adapter = adapters[place.slot]
    return Listed(slot, adapter(place.patch))


def refusal(family: Family, name: str) -> AddressError:
    """Return the error for a method that a family has no place for, with what works on it."""
    slots = [slot for taken in ADAPTERS.get(family.calls, {}) for slot in SLOTS[taken]]
    works = [f"Attention Patch on {', '.join(slots)}, with any operation but identity"] if slots else []
    works.append("backend rules" if family.blocks else "backend rules for 'all'")
    return AddressError(
        f"{name}: {family.name} models call no patch where this would go; what works on them: {'; '.join(works)}"
    )
