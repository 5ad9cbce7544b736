"""Elementary changes of attention: scale, temperature, identity, mean and zero on its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .gate import Gate
from .hook import Around, Hook, Host, Listed
from .schedule import Schedule
from .stack import Inner
from .targets import Address

SLOTS = ("attn1.q", "attn1.k", "attn1.v", "attn2.q", "attn2.k", "attn2.v", "attn1.out", "attn2.out")
OPERATIONS = ("scale", "temperature", "identity", "mean", "zero")
KINDS = {"attn1": "self", "attn2": "cross"}


def scale(x: Tensor, value: float, weight: float) -> Tensor:
    """Multiply by 1 + (value - 1) * weight."""
    return x * (1.0 + (value - 1.0) * weight)


def temperature(x: Tensor, value: float, weight: float) -> Tensor:
    """Divide queries or keys, and with them the scores before the softmax, by 1 + (value - 1) * weight."""
    return x / (1.0 + (value - 1.0) * weight)


def mean(x: Tensor, value: float, weight: float) -> Tensor:
    """Blend every token of (b, n, c) towards the mean over the tokens."""
    return torch.lerp(x, x.mean(dim=1, keepdim=True), weight)


def zero(x: Tensor, value: float, weight: float) -> Tensor:
    """Blend towards zero."""
    return x * (1.0 - weight)


MATHS = {"scale": scale, "temperature": temperature, "mean": mean, "zero": zero}


def operations_for(slot: str) -> tuple[str, ...]:
    """Return the operations that make sense on a slot."""
    name, part = slot.split(".")
    fits = {"temperature": part in ("q", "k"), "identity": slot == "attn1.out"}
    return tuple(op for op in OPERATIONS if fits.get(op, True))


@dataclass(frozen=True)
class AttentionPatch:
    """Apply one operation to one slot of the attention in the blocks of `address` during `schedule`.

    `scale` multiplies by `value`; `temperature` divides the scores by `value` (above 1: flatter attention);
    `mean` and `zero` blend the tokens towards their mean or zero; `identity` blends the self-attention matrix towards
    the identity, so that every token attends to itself (perturbed-attention guidance, Ahn et al. 2024, arXiv
    2403.17377). Queries, keys and values are changed before their bias-free projections, which comes to the same;
    outputs after the projection of the attention's result. `strength` (0..1) times the curve of the schedule is how
    much of it is applied; 0, or value 1 for scale and temperature, changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    slot: str = "attn1.out"
    operation: str = "scale"
    value: float = 1.0
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.slot not in SLOTS:
            raise ValueError(f"unknown slot {self.slot!r}; choose one of {', '.join(SLOTS)}")
        if self.operation not in operations_for(self.slot):
            fitting = ", ".join(operations_for(self.slot))
            raise ValueError(f"operation {self.operation!r} does not work on slot {self.slot}; choose one of {fitting}")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        if not math.isfinite(self.value) or (self.operation == "temperature" and self.value <= 0.0):
            above = ", above 0 for a temperature" if self.operation == "temperature" else ""
            raise ValueError(f"value is {self.value}; give a finite number{above}")
        self.address.narrowed(self.kind)

    @property
    def attention(self) -> str:
        """Return `attn1` or `attn2`."""
        return self.slot.split(".")[0]

    @property
    def part(self) -> str:
        """Return `q`, `k`, `v` or `out`."""
        return self.slot.split(".")[1]

    @property
    def kind(self) -> str:
        """Return `self` or `cross`."""
        return KINDS[self.attention]

    @property
    def neutral(self) -> bool:
        """Tell whether the patch can never change anything."""
        return self.strength == 0.0 or (self.operation in ("scale", "temperature") and self.value == 1.0)

    @property
    def name(self) -> str:
        """Describe the patch in one line."""
        value = f" {self.value:g}" if self.operation in ("scale", "temperature") else ""
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        return f"{self.operation}{value} {self.slot}{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the one hook of the slot."""
        if self.operation == "identity":
            return [Around(self.attention, ReplaceLayer(self, gate))]
        if self.part == "out":
            return [Listed(f"{self.attention}_output_patch", OutputPatch(self, gate))]
        return [Listed(f"{self.attention}_patch", InputPatch(self, gate))]

    def apply(self, x: Tensor, weight: float) -> Tensor:
        """Change a tensor (b, n, c) of the slot; `weight` is the curve of the schedule."""
        weight *= self.strength
        return x if weight == 0.0 else MATHS[self.operation](x, self.value, weight)

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, weight: float) -> Tensor:
        """Blend the result of self-attention towards v, what an identity attention matrix gives.

        Raises ValueError where queries and values are not the same tokens.
        """
        weight *= self.strength
        if weight == 0.0:
            return inner(q, k, v)
        if q.shape[:2] != v.shape[:2]:
            raise ValueError(
                f"{self.name}: an identity matrix needs one value for each query, but there are {tuple(q.shape[:2])} "
                f"queries and {tuple(v.shape[:2])} values; take this block out of it or of the patch that changed them"
            )
        return v if weight == 1.0 else torch.lerp(inner(q, k, v), v, weight)


@dataclass(frozen=True)
class InputPatch:
    """An attention patch in the attn1_patch or attn2_patch slot of a UNet."""

    patch: AttentionPatch
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
        if self.patch.part == "q":
            return self.patch.apply(n, weight), context, value
        if self.patch.part == "k":
            return n, self.patch.apply(context, weight), value
        return n, context, self.patch.apply(value, weight)


@dataclass(frozen=True)
class OutputPatch:
    """An attention patch in the attn1_output_patch or attn2_output_patch slot of a UNet."""

    patch: AttentionPatch
    gate: Gate

    def __call__(self, n: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        return n if weight == 0.0 else self.patch.apply(n, weight)


@dataclass(frozen=True)
class ReplaceLayer:
    """An attention patch around the attention itself."""

    patch: AttentionPatch
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        return inner(q, k, v) if weight == 0.0 else self.patch.attend(inner, q, k, v, weight)
