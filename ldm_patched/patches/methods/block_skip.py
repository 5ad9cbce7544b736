"""Leave the attention of some transformer blocks, or the blocks themselves, out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..addressing.address import KINDS, Address
from ..addressing.where import Where
from ..engine.declaration import Refused, acts, amount, hidden, method
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import Listed, Place, TokensOut, Wrap
from ..engine.site import Site
from ..engine.stack import Inner
from ..patcher import Patcher
from .whole_block_skip import WholeBlockSkip

ATTENTIONS = {"self": ("attn1",), "cross": ("attn2",), "all": ("attn1", "attn2")}


def nothing(q: Tensor, v: Tensor) -> Tensor:
    """Return zeros in the shape of an attention's result (b, h, n, d)."""
    return q.new_zeros((*q.shape[:3], v.shape[3]))


@method(
    node="PatchbayBlockSkip",
    title="Block Skip",
    text="Leave the attention of some blocks, or the blocks themselves, out over a part of the run: to find out what a "
    "block does. What passes it stays as it is.",
    aliases=("skip layer", "disable attention", "block ablation"),
    gives="with this skip on top",
)
class BlockSkip(Method):
    """Skip the `self`- or `cross`-attention, or `all` of it.

    A skipped attention adds nothing to the tokens that pass it, and is not computed. `strength` (0..1) times the curve
    is how much is taken away; below 1 the attention is computed. 0 changes nothing, to the bit.
    """

    attention: str = hidden("all")
    strength: float = amount()
    where: Where = acts(
        "middle",
        kinds=(*KINDS, "block"),
        kind_default="self",
        narrowing=False,
        kind_tip="self: attention among the picture's tokens. cross: attention to the text. all: both. block: the "
        "whole block; on a UNet it may change neither size nor channels.",
    )

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> BlockSkip | WholeBlockSkip:
        """Return the skip of a kind of attention, or of whole blocks."""
        kind = fields.pop("kind")
        return WholeBlockSkip(**fields) if kind == "block" else cls(attention=kind, **fields)

    def check(self) -> None:
        """Refuse an unknown kind, and an address of another one."""
        if self.attention not in KINDS:
            raise Refused(f"unknown kind {self.attention!r}; choose one of {', '.join(KINDS)}", "kind")

    @property
    def kind(self) -> str:
        """Return `self`, `cross` or `all`, the narrower of the attention and the address."""
        return self.address.narrowed(self.attention).kind

    @property
    def slot(self) -> str:
        """Name the places it takes."""
        return ", ".join(ATTENTIONS[self.kind])

    @property
    def name(self) -> str:
        """Describe it in one line."""
        what = {"self": "self-attention", "cross": "cross-attention", "all": "attention"}[self.kind]
        return f"skip {what}{self.times} on {Address(self.address.terms)}{self.schedule.suffix}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return, for each attention, the layer that does not compute it and the patch that takes its output away."""
        for slot in ATTENTIONS[self.kind]:
            yield Wrap(slot, gate, self.leave_out)
            # after the output projection, whose constant would be left of a skipped attention
            yield Listed(f"{slot}_output_patch", TokensOut(gate, self.take_away, counted=False))

    def leave_out(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Compute only what does not vanish wholly."""
        return nothing(q, v) if site.weight == 1.0 else inner(q, k, v)

    def take_away(self, site: Site, n: Tensor) -> Tensor:
        """Take the output of the attention (b, n, c) away."""
        return n * (1.0 - site.weight)
