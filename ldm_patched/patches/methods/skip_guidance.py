"""Guidance away from skipped layers, known from Stable Diffusion 3.5; here the skipped layers are self-attentions."""

from __future__ import annotations

from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import acts, hidden, method, number
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner
from .block_skip import nothing
from .perturbed_guidance import AWAY


@method(
    node="PatchbaySkipGuidance",
    title="Skip Layer Guidance",
    text="Guide away from the picture in which the self-attention of some blocks is left out: clearer structure, with "
    "or without a negative prompt. One more model call in each step of the window.",
    aliases=("SLG", "skip layer guidance"),
    verb="guide",
    gives="with this guidance",
    saved_in=("Guidance", "weakening", "Skipped"),
)
class SkipGuidance(Method):
    """Guide away from self-attention that gives nothing but the constant of its output projection.

    `scale` times the curve of the schedule is how far; 0 changes nothing, to the bit.
    """

    form: str = hidden("skip-layer", saved="name")
    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip=AWAY)
    where: Where = acts("middle", kind="self")

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"{self.form} guidance {self.scale:g}"

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Return zeros."""
        return nothing(q, v)
