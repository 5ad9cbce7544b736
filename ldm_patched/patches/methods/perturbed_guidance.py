"""Perturbed-attention guidance."""

from __future__ import annotations

from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import acts, hidden, method, number
from ..engine.method import Method
from ..engine.scores import to_itself
from ..engine.site import Site
from ..engine.stack import Inner

AWAY = "How far the prediction is pushed away from the weakened one; 0 changes nothing."


@method(
    node="PatchbayPerturbedGuidance",
    title="Perturbed Attention Guidance (PAG)",
    text="Guide away from the picture in which every token of some blocks attends to itself alone: clearer structure, "
    "with or without a negative prompt. One more model call in each step of the window.",
    aliases=("PAG", "perturbed attention", "identity attention", "lower cfg"),
    verb="guide",
    gives="with this guidance",
    saved_in=("Guidance", "weakening", "Perturbed"),
)
class PerturbedGuidance(Method):
    """Guide away from self-attention in which every token attends to itself alone (Ahn et al. 2024, arXiv 2403.17377).

    `scale` times the curve of the schedule is how far; 0 changes nothing, to the bit.
    """

    form: str = hidden("perturbed-attention", saved="name")
    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip=AWAY)
    where: Where = acts("middle", kind="self")

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"{self.form} guidance {self.scale:g}"

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Return what an identity attention matrix gives."""
        return to_itself(q, k, v, site.beside)
