"""One elementary change of one slot of the attention, or of what UNet blocks hand on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import operations
from .attention_slots import BLOCK_PATCHES, InputPatch, OutputPatch, ReplaceLayer
from .context import POSITIVE, rows
from .draw import step_generator, step_number
from .gate import Gate
from .grid import token_grid
from .hook import Around, Hook, Host, Listed
from .schedule import Schedule
from .stack import Inner
from .targets import Address

ATTENTION_SLOTS = ("attn1.q", "attn1.k", "attn1.v", "attn2.q", "attn2.k", "attn2.v", "attn1.out", "attn2.out")
# Whole UNet blocks: where ComfyUI calls each slot, and the room whose blocks do.
BLOCK_SLOTS = {
    "block.input": ("input_block_patch", "input"),
    "block.after_skip": ("input_block_patch_after_skip", "input"),
    "block.middle": ("middle_block_after_patch", "middle"),
    "block.output": ("output_block_patch", "output"),
    "block.skip": ("output_block_patch", "output"),
}
SLOTS = (*ATTENTION_SLOTS, "middle", *BLOCK_SLOTS)
SIMPLE = {"scale": operations.scale, "temperature": operations.temperature, "mean": operations.mean}
SIMPLE |= {"zero": operations.zero, "clamp": operations.clamp}
OPERATIONS = (
    "scale",
    "temperature",
    "identity",
    "mean",
    "zero",
    "clamp",
    "noise",
    "blur",
    "gain",
    "shuffle",
    "towards",
)
WITH_VALUE = ("scale", "temperature", "clamp", "noise", "blur")
KINDS = {"attn1": "self", "attn2": "cross", "middle": "all", "block": "block"}
TEXT = ("attn2.k", "attn2.v")  # slots whose tokens are those of the prompt


def operations_for(slot: str) -> tuple[str, ...]:
    """Return the operations that make sense on a slot."""
    part = slot.rpartition(".")[2]
    attention = slot in ATTENTION_SLOTS
    fits = {
        "temperature": attention and part in ("q", "k"),
        "identity": slot == "attn1.out",
        "blur": slot not in TEXT,
        "towards": slot in TEXT,
    }
    return tuple(op for op in OPERATIONS if fits.get(op, True))


@dataclass(frozen=True)
class AttentionPatch:
    """Apply one operation to one slot in the blocks of `address` during `schedule`.

    `scale` multiplies by `value`; `temperature` divides the scores by `value` (above 1: flatter attention);
    `mean` and `zero` blend the tokens towards their mean or zero; `identity` blends the self-attention matrix towards
    the identity, so that every token attends to itself (perturbed-attention guidance, Ahn et al. 2024, arXiv
    2403.17377); `clamp` cuts off at -value and value; `noise` adds noise of `value` deviations, another one in each
    step; `blur` has the deviation `value` in tokens; `gain` multiplies `channels`, such as `0:1.5, 4-7:0`; `shuffle`
    changes the order of the tokens in each step; `towards` goes from the prompt to `other`, the tokens (1, m, c) of
    another one, on the positive side.

    Queries, keys and values are changed before their bias-free projections, which comes to the same; outputs after the
    projection of the attention's result; `middle` is between self- and cross-attention, the slots of whole blocks are
    what ComfyUI calls input_block_patch, input_block_patch_after_skip, middle_block_after_patch and output_block_patch
    (the backbone and the skip connection). `strength` (0..1) times the curve of the schedule is how much of it is
    applied; 0, or a value that means no change, changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    slot: str = "attn1.out"
    operation: str = "scale"
    value: float = 1.0
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()
    channels: str = ""
    other: Tensor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.slot not in SLOTS:
            raise ValueError(f"unknown slot {self.slot!r}; choose one of {', '.join(SLOTS)}")
        if self.operation not in operations_for(self.slot):
            fitting = ", ".join(operations_for(self.slot))
            raise ValueError(f"operation {self.operation!r} does not work on slot {self.slot}; choose one of {fitting}")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self._check_value()
        operations.parse_gains(self.channels)
        self.address.narrowed(self.kind)
        self._check_room()

    def _check_value(self) -> None:
        low = {"temperature": "above 0 for a temperature", "clamp": "from 0 for clamp", "noise": "from 0 for noise"}
        low["blur"] = "from 0 for blur"
        wrong = self.value <= 0.0 if self.operation == "temperature" else self.value < 0.0
        if not math.isfinite(self.value) or (self.operation in low and wrong):
            above = f", {low[self.operation]}" if self.operation in low else ""
            raise ValueError(f"value is {self.value}; give a finite number{above}")

    def _check_room(self) -> None:
        if self.kind != "block":
            return
        room = BLOCK_SLOTS[self.slot][1]
        included = [term for term in self.address.terms if not term.exclude]
        if not included or any(term.room != room for term in included):
            raise ValueError(f"slot {self.slot} is called by {room} blocks, not by '{self.address}'; write {room}")

    @property
    def attention(self) -> str:
        """Return `attn1`, `attn2`, `middle` or `block`."""
        return self.slot.split(".")[0]

    @property
    def part(self) -> str:
        """Return `q`, `k`, `v` or `out`, or the part of a block."""
        return self.slot.rpartition(".")[2]

    @property
    def kind(self) -> str:
        """Return what the slot belongs to: `self`, `cross`, `all` or `block`."""
        return KINDS[self.attention]

    @property
    def scales_scores(self) -> bool:
        """Tell whether all it does is to multiply queries or keys."""
        return self.operation in ("scale", "temperature") and self.part in ("q", "k")

    @property
    def neutral(self) -> bool:
        """Tell whether the patch can never change anything."""
        no_change = {"scale": self.value == 1.0, "temperature": self.value == 1.0, "noise": self.value == 0.0}
        no_change |= {"blur": self.value == 0.0, "towards": self.other is None}
        no_change["gain"] = all(one.factor == 1.0 for one in operations.parse_gains(self.channels))
        return self.strength == 0.0 or no_change.get(self.operation, False)

    @property
    def name(self) -> str:
        """Describe the patch in one line."""
        value = f" {self.value:g}" if self.operation in WITH_VALUE else ""
        value += f" {self.channels}" if self.operation == "gain" else ""
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        return f"{self.operation}{value} {self.slot}{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the one hook of the slot."""
        if self.operation == "identity":
            return [Around(self.attention, ReplaceLayer(self, gate))]
        if self.attention == "block":
            return [Listed(BLOCK_SLOTS[self.slot][0], BLOCK_PATCHES[self.slot](self, gate))]
        if self.attention == "middle":
            return [Listed("middle_patch", OutputPatch(self, gate))]
        if self.part == "out":
            return [Listed(f"{self.attention}_output_patch", OutputPatch(self, gate))]
        return [Listed(f"{self.attention}_patch", InputPatch(self, gate))]

    def apply(self, x: Tensor, weight: float, options: Mapping[str, Any], memory: dict[str, Any]) -> Tensor:
        """Change tokens (b, n, c) of the slot; `weight` is the curve of the schedule."""
        weight *= self.strength
        if weight == 0.0:
            return x
        if self.operation in SIMPLE:
            return SIMPLE[self.operation](x, self.value, weight)
        if self.operation == "gain":
            return operations.gain(x, operations.parse_gains(self.channels), weight)
        if self.operation == "blur":
            return operations.blur(x, self.value, weight, token_grid(x.shape[1], options))
        if self.operation == "towards":
            return self._towards(x, weight, options)
        generator = step_generator(step_number(options, memory))
        if self.operation == "noise":
            return operations.noise(x, self.value, weight, generator)
        return operations.shuffle(x, weight, generator)

    def _towards(self, x: Tensor, weight: float, options: Mapping[str, Any]) -> Tensor:
        out = x.clone()
        for some in rows(POSITIVE, options, len(x)):
            out[some] = operations.towards(x[some], self.other, weight)  # type: ignore[arg-type]
        return out

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
