"""Factors of what whole blocks hand on, or add."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor

from ..addressing.families import is_unet
from ..addressing.where import Where
from ..engine.declaration import acts, amount, method, number
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import BlockIn, BlockOut, Listed, MiddleOut, Place, Scale
from ..engine.site import Site
from ..patcher import Patcher
from .free_u import blended, check_factors


@method(
    node="PatchbayBlockScale",
    title="Block Scale",
    text="Multiply what whole blocks hand on. UNet: the backbone and the skip connection of output blocks, the output "
    "of input blocks and of the middle. Transformers: what a block adds to its input.",
    aliases=("skip connection scale", "backbone multiply", "unet block weight", "mbw", "block weight"),
    gives="with this scale on top",
)
class BlockScale(Method):
    """Multiply what blocks hand on.

    In an output block `backbone` multiplies what comes from the block before it and `skip` what comes over the skip
    connection; in an input block and in the middle `backbone` multiplies the output, which for an input block is also
    what its skip connection keeps. A transformer's block adds to its input, and `backbone` multiplies what it adds; it
    has no skip connections, and another `skip` than 1 is refused. `strength` (0..1) times the curve is how much of it
    is applied; 0, or both factors 1, changes nothing, to the bit.
    """

    backbone: float = number(
        1.1,
        0.0,
        10.0,
        step=0.01,
        tip="Factor of what an output block gets from the block before it, of the output of an input block or the "
        "middle, or of what a transformer's block adds; 1 changes nothing.",
    )
    skip: float = number(
        1.0,
        0.0,
        10.0,
        step=0.01,
        tip="Factor of what an output block gets over its skip connection; other blocks do not use it. Transformers "
        "have no skip connections: leave it at 1 there.",
    )
    strength: float = amount()
    where: Where = acts("output", kind="block")

    def check(self) -> None:
        """Refuse wrong factors."""
        check_factors(backbone=self.backbone, skip=self.skip)

    @property
    def slot(self) -> str:
        """Name its places."""
        return "block patches"

    @property
    def neutral(self) -> bool:
        """Return whether it can never change anything."""
        return self.strength == 0.0 or self.backbone == self.skip == 1.0

    @property
    def needs_skips(self) -> bool:
        """Return whether it scales skip connections."""
        return self.skip != 1.0

    @property
    def label(self) -> str:
        """Describe it."""
        return f"scale backbone {self.backbone:g} skip {self.skip:g}{self.times}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return a place for each block type."""
        if not is_unet(model):
            return [Scale(gate, partial(blended, self.backbone))]
        return [
            Listed("input_block_patch", BlockOut(gate, self.scale)),
            Listed("middle_block_after_patch", MiddleOut(gate, self.scale)),
            Listed("output_block_patch", BlockIn(gate, self.scale_both)),
        ]

    def scale(self, site: Site, h: Tensor) -> Tensor:
        """Multiply the output of a block."""
        return h * blended(self.backbone, site.weight)

    def scale_both(self, site: Site, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply what an output block gets."""
        return h * blended(self.backbone, site.weight), skip * blended(self.skip, site.weight)
