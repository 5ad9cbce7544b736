"""Guidance away from skipped layers, known from Stable Diffusion 3.5: self-attentions, or whole blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, Widget, acts, hidden, method, number
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner
from .block_skip import nothing
from .perturbed_guidance import AWAY
from .whole_block_guidance import WholeBlockGuidance

CHOICES = ("self", "block")
KIND = Widget(
    "kind",
    "COMBO",
    "What is left out. self: attention among the picture's tokens. block: the whole block, as known from SD 3.5; on a "
    "UNet it may change neither size nor channels.",
    (("options", list(CHOICES)), ("default", "self")),
    optional=True,
)


@method(
    node="PatchbaySkipGuidance",
    title="Skip Layer Guidance",
    text="Guide away from the picture in which the self-attention of some blocks, or the blocks themselves, are left "
    "out: clearer structure, with or without a negative prompt. One more model call in each step of the window.",
    aliases=("SLG", "skip layer guidance"),
    verb="guide",
    gives="with this guidance",
    asks=(KIND,),
    saved_in=("Guidance", "weakening", "Skipped"),
)
class SkipGuidance(Method):
    """Guide away from self-attention that gives nothing but the constant of its output projection.

    `scale` times the curve of the schedule is how far; 0 changes nothing, to the bit.
    """

    form: str = hidden("skip-layer", saved="name")
    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip=AWAY)
    where: Where = acts("middle", kind="self")

    @classmethod
    def check_asked(cls, asked: Mapping[str, Any]) -> None:
        """Refuse an unknown kind."""
        if asked.get("kind") not in (None, *CHOICES):
            raise Refused(f"unknown kind {asked['kind']!r}; choose one of {', '.join(CHOICES)}", "kind")

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> SkipGuidance | WholeBlockGuidance:
        """Return the guidance away from skipped self-attention, or from skipped blocks."""
        cls.check_asked(asked)
        return WholeBlockGuidance(**fields) if asked.get("kind") == "block" else cls(**fields)

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"{self.form} guidance {self.scale:g}"

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Return zeros."""
        return nothing(q, v)
