"""The patches between the blocks of a UNet of diffusers: hooks of torch where its blocks begin and end.

It calls no patches there. Its blocks hand tensors on as they are, so that a hook which gives another one changes what
the skip connection and the next block get.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..patches.engine.block_forward import CALLED

NEXT = "patchbay_next"  # in the options of a call: what an input block gave, and what the next block is to get of it
SLOTS = ("input_block_patch", "input_block_patch_after_skip", "middle_block_after_patch", "output_block_patch")


class InputBlock(NamedTuple):
    """The first and the last module of an input block, and the channels of what it hands on."""

    first: Any
    last: Any
    channels: int


def input_blocks(theirs: Any) -> Iterator[InputBlock]:
    """Yield the input blocks in the order in which checkpoint files number them."""
    yield InputBlock(theirs.conv_in, theirs.conv_in, theirs.conv_in.out_channels)
    for level in theirs.down_blocks:
        attentions = getattr(level, "attentions", ())
        for i, resnet in enumerate(level.resnets):
            yield InputBlock(resnet, attentions[i] if i < len(attentions) else resnet, resnet.out_channels)
        yield from (InputBlock(sampler, sampler, sampler.out_channels) for sampler in level.downsamplers or ())


def hooked(theirs: Any) -> list[Any]:
    """Put the hooks on a UNet; return their handles."""
    inputs = list(input_blocks(theirs))
    outputs = [resnet for level in theirs.up_blocks for resnet in level.resnets]
    handles = [block.last.register_forward_hook(AfterInput(number)) for number, block in enumerate(inputs)]
    following = [block.first for block in inputs[1:]]
    if theirs.mid_block is not None:
        following.append(theirs.mid_block.resnets[0])
        handles.append(theirs.mid_block.register_forward_hook(after_middle))
    handles += [module.register_forward_pre_hook(before_next) for module in following]
    for number, (resnet, block) in enumerate(zip(outputs, reversed(inputs), strict=True)):
        handles.append(resnet.register_forward_pre_hook(BeforeOutput(number, block.channels)))
    return handles


@dataclass(frozen=True)
class AfterInput:
    """Behind an input block: changes what its skip connection and the next block get."""

    number: int

    def __call__(self, module: object, args: object, out: Any) -> Any:
        """Return another output, or None to keep it."""
        called = CALLED.get()
        if called is None:
            return None
        before: Tensor = out if isinstance(out, Tensor) else out[0]
        h, patches = before, called["patches"]
        called["block"] = ("input", self.number)
        for patch in patches.get("input_block_patch", ()):
            h = patch(h, called)
        after = h
        for patch in patches.get("input_block_patch_after_skip", ()):
            after = patch(after, called)
        called[NEXT] = h, after
        if h is before:
            return None
        return h if isinstance(out, Tensor) else (h, *out[1:])


def before_next(module: object, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Give the block behind an input block what only it is to get."""
    called = CALLED.get()
    gave, after = (None, None) if called is None else called.pop(NEXT, (None, None))
    return None if after is gave or args[0] is not gave else (after, *args[1:])


def after_middle(module: object, args: object, h: Tensor) -> Tensor | None:
    """Change what the middle hands on."""
    called = CALLED.get()
    patches = () if called is None else called["patches"].get("middle_block_after_patch", ())
    for patch in patches:
        assert called is not None
        called["block"] = ("middle", 0)
        h = patch({"h": h, "transformer_options": called})["h"]
    return h if patches else None


@dataclass(frozen=True)
class BeforeOutput:
    """In front of an output block, which gets the backbone and a skip connection of so many channels in one."""

    number: int
    channels: int

    def __call__(self, module: object, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return other arguments, or None to keep them."""
        called = CALLED.get()
        if called is None:
            return None
        called["block"] = ("output", self.number)
        both: Tensor = args[0]
        h, skip = before = both.split([both.shape[1] - self.channels, self.channels], dim=1)
        for patch in called["patches"].get("output_block_patch", ()):
            h, skip = patch(h, skip, called)
        return None if h is before[0] and skip is before[1] else (torch.cat([h, skip], dim=1), *args[1:])
