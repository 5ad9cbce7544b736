"""A gate around patches of others: which they are, where and when they act, and for which rows and tokens.

A model keeps it beside them. They stay where other packs look for them, and are put under it in each call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..patcher import Patch, TransformerOptions
from ..record.run import AttentionId, HeldCall, run_of
from .at_tokens import at_tokens
from .gate import Gate, curve_weight
from .owner import foreign_name
from .sides import SIDES
from .site import Site

HOLDS = "patchbay_holds"  # in the options of a model: the holds, in the order of their nodes
BOTH = "both"
WHOLE = "block"  # the kind of what whole blocks call
NO_ROWS = "its rows are those of no prompt, so it ran for both sides"


class Part(NamedTuple):
    """A patch of another pack where it stands; `block` is the one that the patch stands in the place of."""

    slot: str
    patch: Patch
    address: tuple[Any, ...] | None = None
    block: BlockId | None = None


class Share(NamedTuple):
    """How much of a patch the rows and tokens of a call get: a number, or (b,), times what a mask says there."""

    rows: float | Tensor
    site: Site
    mask: Tensor | None = None

    @property
    def none(self) -> bool:
        """Return whether nothing of it is wanted."""
        return isinstance(self.rows, float) and self.rows == 0.0

    @property
    def all(self) -> bool:
        """Return whether all of it is wanted."""
        return isinstance(self.rows, float) and self.rows == 1.0 and self.mask is None

    def divides(self, x: Tensor) -> bool:
        """Return whether x is one that it tells apart: numbers of the call's rows."""
        return x.is_floating_point() and not (isinstance(self.rows, Tensor) and len(x) != len(self.rows))

    def of(self, x: Tensor) -> float | Tensor:
        """Return the share of each number of x, tokens (b, n, c) or pixels (b, c, h, w)."""
        rows = self.rows
        if isinstance(rows, Tensor):
            rows = rows.to(x).view(-1, *[1] * (x.ndim - 1))
        if self.mask is None:
            return rows
        site = self.site.over(x) if x.ndim == 4 else self.site.but(tokens=x.shape[1])
        mask = self.mask.to(x.device, torch.float32).clamp(0.0, 1.0)
        placed = site.once(f"share {site.layout} {x.device}", lambda: at_tokens(site, mask)).to(x.dtype)
        return rows * (placed.unflatten(1, x.shape[2:])[:, None] if x.ndim == 4 else placed[:, :, None])


@dataclass(frozen=True)
class Hold:
    """What one node holds back: `parts` act in the blocks of the gate, in its window, for the rows of one side.

    Args:
        left: what else the node meant, and why nobody can hold it.
        attentions: the blocks of the gate with the kinds of attention.
        everywhere: the address takes every call, also those of no known block.
        whole: the blocks of the address as those of a UNet, for what these call.
        side: `positive`, `negative` or `both`.
        mask: where in the image, (b, y, x) of 0 to 1.
    """

    gate: Gate
    parts: tuple[Part, ...] = ()
    left: tuple[tuple[Patch, str], ...] = ()
    attentions: frozenset[AttentionId] = frozenset()
    everywhere: bool = False
    whole: frozenset[BlockId] = frozenset()
    side: str = BOTH
    mask: Tensor | None = None

    def part(self, slot: str, patch: object, address: object = None) -> Part | None:
        """Return the part of it that a patch in a slot is; None where it is none."""
        return next((part for part in self._by_place.get((slot, address), ()) if part.patch is patch), None)

    @cached_property
    def _by_place(self) -> dict[tuple[str, object], list[Part]]:
        found: dict[tuple[str, object], list[Part]] = {}
        for part in self.parts:
            found.setdefault((part.slot, part.address), []).append(part)
        return found

    def takes(self, block: BlockId | None, kind: str | None) -> bool:
        """Return whether a call of a block, with a kind of attention or of the whole block, lies in the address."""
        if self.everywhere:
            return True
        if kind == WHOLE:
            return block is not None and block._replace(inner=0) in self.whole
        if kind is None:
            return block in self.gate.blocks
        return not self.attentions.isdisjoint(((block, kind), (block, None)))

    def share(self, options: TransformerOptions, block: BlockId | None, kind: str | None, x: Tensor) -> Share:
        """Return how much of a patch a call for x (b, ...) gets."""
        weight = curve_weight(self.gate.entry.schedule, options) if self.takes(block, kind) else 0.0
        site = Site(options, "all", len(x), gate=self.gate)
        if weight == 0.0 or self.side == BOTH:
            return Share(weight, site, self.mask)
        chunks, wanted = site.chunks, SIDES.index(self.side)
        if not any(chunk == wanted for chunk in chunks):
            return Share(0.0, site)
        if all(chunk == wanted for chunk in chunks):
            return Share(weight, site, self.mask)
        if len(x) % len(chunks):
            self.gate.skip(options, NO_ROWS)
            return Share(weight, site, self.mask)
        rows = torch.tensor([weight if chunk == wanted else 0.0 for chunk in chunks], device=x.device)
        return Share(rows.repeat_interleave(len(x) // len(chunks)), site, self.mask)

    def count(self, options: TransformerOptions, part: Part, block: BlockId | None, outcome: str) -> None:
        """Count a call of a part, and what became of it."""
        run = run_of(options)
        if run is not None:
            run.count_held(HeldCall(self.gate.entry.number, foreign_name(part.patch), part.slot, block, outcome))


def holds_of(options: TransformerOptions) -> tuple[Hold, ...]:
    """Return the holds of a model or call, the first node's first."""
    found: tuple[Hold, ...] = options.get(HOLDS, ())
    return found
