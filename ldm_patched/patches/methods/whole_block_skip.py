"""Leave whole blocks out: what came into a block comes out of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..addressing.address import AddressError, BlockId
from ..addressing.families import is_unet
from ..addressing.where import Where
from ..engine.declaration import acts, amount, method
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import BlockIn, BlockOut, InOptions, Listed, MiddleOut, Scale
from ..engine.site import Site
from ..patcher import Patcher

# Keys of transformer_options, which are private to one call of the model; all skips of the call share them.
INPUT = "patchbay_block_input"  # what the next input block, or the middle, gets
LEFT_OUT = "patchbay_left_out"  # the Passing of an output block that runs now


@method()
class WholeBlockSkip(Method):
    """Skip blocks: of a transformer any, of a UNet those that change neither size nor channels.

    A transformer's block is not computed where all of it is skipped. On a UNet input blocks give their input to their
    skip connection too, output blocks let what comes from the block before them pass, and all are computed all the
    same; the last output block has no place after it to be skipped at. `strength` (0..1) times the curve blends from
    the output to the input. 0 changes nothing, to the bit.
    """

    strength: float = amount()
    where: Where = acts("middle", kind="block")

    @property
    def slot(self) -> str:
        """Name its places."""
        return "block patches"

    @property
    def label(self) -> str:
        """Describe it."""
        return f"skip block{self.times}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[InOptions]:
        """Return all its places.

        Raises AddressError for the last output block.
        """
        if not is_unet(model):
            return [Scale(gate, self.left)]
        last = BlockId("output", len(model.model.diffusion_model.output_blocks) - 1)
        if last in gate.blocks:
            raise AddressError(f"{last} is the last block and cannot be skipped; leave it out of the blocks (!{last})")
        return [
            Listed("input_block_patch", BlockOut(gate, self.skip)),
            Listed("input_block_patch_after_skip", BlockOut(gate, self.remember, always=True, counted=False)),
            Listed("middle_block_after_patch", MiddleOut(gate, self.skip)),
            Listed("output_block_patch", BlockIn(gate, self.skip_output, always=True)),
        ]

    def left(self, weight: float) -> float:
        """Return how much is left of what a transformer's block adds."""
        return 1.0 - weight

    def skip(self, site: Site, h: Tensor) -> Tensor:
        """Return the input of an input block or of the middle."""
        block = BlockId(*site.options["block"])
        if INPUT not in site.options:
            raise ValueError(f"{block} cannot be skipped, it takes the latent; leave it out of the blocks (!{block})")
        return past(block, h, site.options[INPUT], site.weight)

    def remember(self, site: Site, h: Tensor) -> Tensor:
        """Keep what the next block gets."""
        site.options[INPUT] = h
        return h

    def skip_output(self, site: Site, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Finish the skip of the output block before, and begin that of this one."""
        options = site.options
        number = options["block"][1]
        passing: Passing | None = options.get(LEFT_OUT)
        if passing is not None and passing.number != number:  # the first skip of this block finishes the last one
            h = past(BlockId("output", passing.number), h, passing.h, passing.weight)
            options[LEFT_OUT] = passing = None
        if site.weight > 0.0:
            rest = (1.0 - site.weight) * (1.0 if passing is None else 1.0 - passing.weight)
            options[LEFT_OUT] = Passing(number, h if passing is None else passing.h, 1.0 - rest)
        return h, skip


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
