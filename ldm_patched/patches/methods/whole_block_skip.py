"""Leave whole blocks of a UNet out: what came into a block comes out of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .gate import Gate
from .hook import Hook, Host
from .schedule import Schedule
from .targets import Address, AddressError, BlockId, Term

MIDDLE = Address((Term("middle", 0, 0),))

# Keys of transformer_options, which are private to one call of the model; all skips of the call share them.
INPUT = "patchbay_block_input"  # what the next input block, or the middle, gets
LEFT_OUT = "patchbay_left_out"  # the Passing of an output block that runs now


class Passing(NamedTuple):
    """What goes past an output block: its number, what came in, and how much of that is to come out."""

    number: int
    h: Tensor
    weight: float


def past(block: BlockId, out: Tensor, h: Tensor, weight: float) -> Tensor:
    """Blend a block's output (b, c, h, w) towards its input.

    Raises ValueError where the block changes the shape.
    """
    if out.shape != h.shape:
        sizes = " to ".join("x".join(map(str, x.shape[1:])) for x in (h, out))
        raise ValueError(f"{block} cannot be skipped, it turns {sizes}; leave it out of the blocks (!{block})")
    return h if weight == 1.0 else torch.lerp(out, h, weight)


@dataclass(frozen=True)
class WholeBlockSkip:
    """Skip UNet blocks that change neither size nor channels, in `address` during `schedule`.

    Input blocks give their input to their skip connection too; output blocks let what comes from the block before them
    pass. The last output block has no place after it to be skipped at. `strength` (0..1) times the curve blends from
    the output to the input; the block is computed all the same. 0 changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    strength: float = 1.0
    address: Address = MIDDLE
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "block"
    slot: ClassVar[str] = "block patches"

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.strength == 0.0

    @property
    def name(self) -> str:
        """Describe it in one line."""
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        return f"skip block{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the one hook with all its places."""
        return [WholeSkipHook(self, gate)]


@dataclass(frozen=True)
class WholeSkipHook:
    """Put a whole block skip on a clone."""

    skip: WholeBlockSkip
    gate: Gate

    def put(self, clone: Any, gate: Gate, host: Host) -> None:
        """Append the functions.

        Raises AddressError for the last output block.
        """
        last = BlockId("output", len(clone.model.diffusion_model.output_blocks) - 1)
        if last in gate.blocks:
            raise AddressError(f"{last} is the last block and cannot be skipped; leave it out of the blocks (!{last})")
        clone.set_model_patch(SkipInput(self.skip, gate), "input_block_patch")
        clone.set_model_patch(RememberInput(gate), "input_block_patch_after_skip")
        clone.set_model_patch(SkipMiddle(self.skip, gate), "middle_block_after_patch")
        clone.set_model_patch(SkipOutput(self.skip, gate), "output_block_patch")


@dataclass(frozen=True)
class SkipInput:
    """A whole block skip as an input_block_patch."""

    skip: WholeBlockSkip
    gate: Gate

    def __call__(self, h: Tensor, transformer_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(transformer_options) * self.skip.strength
        if weight == 0.0:
            return h
        block = BlockId(*transformer_options["block"])
        if INPUT not in transformer_options:
            raise ValueError(f"{block} cannot be skipped, it takes the latent; leave it out of the blocks (!{block})")
        return past(block, h, transformer_options[INPUT], weight)


@dataclass(frozen=True)
class RememberInput:
    """An input_block_patch_after_skip that changes nothing but keeps what the next block gets."""

    gate: Gate

    def __call__(self, h: Tensor, transformer_options: MutableMapping[str, Any]) -> Tensor:
        transformer_options[INPUT] = h
        return h


@dataclass(frozen=True)
class SkipMiddle:
    """A whole block skip as a middle_block_after_patch."""

    skip: WholeBlockSkip
    gate: Gate

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        return {**args, "h": SkipInput(self.skip, self.gate)(args["h"], args["transformer_options"])}


@dataclass(frozen=True)
class SkipOutput:
    """A whole block skip as an output_block_patch: it acts on a block when the next one begins."""

    skip: WholeBlockSkip
    gate: Gate

    def __call__(self, h: Tensor, hsp: Tensor, transformer_options: MutableMapping[str, Any]) -> tuple[Tensor, Tensor]:
        number = transformer_options["block"][1]
        passing: Passing | None = transformer_options.get(LEFT_OUT)
        if passing is not None and passing.number != number:  # the first skip of this block finishes the last one
            h = past(BlockId("output", passing.number), h, passing.h, passing.weight)
            transformer_options[LEFT_OUT] = passing = None
        weight = self.gate.weight(transformer_options) * self.skip.strength
        if weight > 0.0:
            rest = (1.0 - weight) * (1.0 if passing is None else 1.0 - passing.weight)
            transformer_options[LEFT_OUT] = Passing(number, h if passing is None else passing.h, 1.0 - rest)
        return h, hsp
