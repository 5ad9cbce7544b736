"""The places of an attention patch: the small callables that ComfyUI's slots take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .gate import Gate
from .stack import Inner


class Change(Protocol):
    """What an attention patch does."""

    @property
    def part(self) -> str: ...

    def apply(self, x: Tensor, weight: float, options: Mapping[str, Any], memory: dict[str, Any]) -> Tensor: ...

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, weight: float) -> Tensor: ...


@dataclass(frozen=True)
class InputPatch:
    """An attention patch in the attn1_patch or attn2_patch slot of a UNet."""

    patch: Change
    gate: Gate

    def __call__(
        self, n: Tensor, context: Tensor | None, value: Tensor | None, extra_options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        weight = self.gate.weight(extra_options)
        if weight == 0.0:
            return n, context, value
        # the three can be one tensor, or left out: each is given by itself so that only the slot's own changes
        context = n if context is None else context
        value = context if value is None else value
        memory = self.gate.memory(extra_options)
        if self.patch.part == "q":
            return self.patch.apply(n, weight, extra_options, memory), context, value
        if self.patch.part == "k":
            return n, self.patch.apply(context, weight, extra_options, memory), value
        return n, context, self.patch.apply(value, weight, extra_options, memory)


@dataclass(frozen=True)
class OutputPatch:
    """An attention patch in the attn1_output_patch, attn2_output_patch or middle_patch slot of a UNet."""

    patch: Change
    gate: Gate

    def __call__(self, n: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        return n if weight == 0.0 else self.patch.apply(n, weight, extra_options, self.gate.memory(extra_options))


@dataclass(frozen=True)
class ReplaceLayer:
    """An attention patch around the attention itself."""

    patch: Change
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        return inner(q, k, v) if weight == 0.0 else self.patch.attend(inner, q, k, v, weight)


# Whole blocks


@dataclass(frozen=True)
class BlockPatch:
    """An attention patch of what a block hands on, (b, c, h, w), as input_block_patch and its after_skip."""

    patch: Change
    gate: Gate

    def __call__(self, h: Tensor, transformer_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(transformer_options)
        if weight == 0.0:
            return h
        options = {**transformer_options, "activations_shape": list(h.shape)}
        tokens = h.flatten(2).transpose(1, 2)  # (b, h * w, c)
        out = self.patch.apply(tokens, weight, options, self.gate.memory(transformer_options))
        return out.transpose(1, 2).reshape(h.shape)


class MiddlePatch(BlockPatch):
    """The same as a middle_block_after_patch, which gets and gives a dict."""

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**args, "h": super().__call__(args["h"], args["transformer_options"])}


class BackbonePatch(BlockPatch):
    """The same on the backbone that an output block gets."""

    def __call__(self, h: Tensor, hsp: Tensor, transformer_options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().__call__(h, transformer_options), hsp


class SkipPatch(BlockPatch):
    """The same on the skip connection that an output block gets."""

    def __call__(self, h: Tensor, hsp: Tensor, transformer_options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return h, super().__call__(hsp, transformer_options)


BLOCK_PATCHES: dict[str, type[BlockPatch]] = {
    "block.input": BlockPatch,
    "block.after_skip": BlockPatch,
    "block.middle": MiddlePatch,
    "block.output": BackbonePatch,
    "block.skip": SkipPatch,
}
