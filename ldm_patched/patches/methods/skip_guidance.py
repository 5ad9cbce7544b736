"""Guidance away from skipped layers, known from Stable Diffusion 3.5: from self-attentions or whole blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.declaration import acts, choice, hidden, method, number
from ..engine.gate import Gate
from ..engine.guidance import WeakPass
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import AfterCfg, Place
from ..engine.site import Site
from ..engine.stack import Inner
from ..patcher import Patcher
from .block_skip import nothing
from .perturbed_guidance import AWAY
from .whole_block_skip import WholeBlockSkip


@method(
    node="PatchbaySkipGuidance",
    title="Skip Layer Guidance",
    text="Guide away from the picture in which the self-attention of some blocks, or the blocks themselves, are left "
    "out: clearer structure, with or without a negative prompt. One more model call in each step of the window.",
    aliases=("SLG", "skip layer guidance"),
    verb="guide",
    gives="with this guidance",
    saved_in=("Guidance", "weakening", "Skipped"),
)
class SkipGuidance(Method):
    """Guide away from self-attention that gives nothing but the constant of its output projection, or whole blocks.

    `scale` times the curve of the schedule is how far; 0 changes nothing, to the bit.
    """

    form: str = hidden("skip-layer", saved="name")
    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip=AWAY)
    where: Where = acts("middle", kind="self")
    kind: str = choice(
        ("self", "block"),
        "self",
        tip="What is left out. self: attention among the picture's tokens. block: the whole block, as known from SD "
        "3.5; on a UNet it may change neither size nor channels.",
        optional=True,
    )

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"{self.form} guidance {self.scale:g}" + (" by whole blocks" if self.kind == "block" else "")

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the extra prediction without the blocks, or with the weak attention."""
        if self.kind != "block":
            return super().places(gate, host, model)
        # the curve is that of the scale: what is left out is left out wholly
        wholly = replace(gate, entry=replace(gate.entry, schedule=Schedule()))
        skips = tuple(WholeBlockSkip(1.0, self.where).places(wholly, host, model))
        return [AfterCfg(gate, WeakPass(self.scale, skips, host))]

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Return zeros."""
        return nothing(q, v)
