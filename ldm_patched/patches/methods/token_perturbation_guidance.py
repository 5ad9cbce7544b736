"""Token perturbation guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import acts, method, number
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner
from .perturbed_guidance import AWAY


@method(
    node="PatchbayTokenPerturbationGuidance",
    title="Token Perturbation Guidance",
    text="Guide away from the picture in which the self-attention of some blocks sees the picture's tokens in another "
    "order: clearer structure, with or without a negative prompt. One more model call in each step of the window.",
    aliases=("TPG", "token perturbation", "token shuffle"),
    verb="guide",
    gives="with this guidance",
)
class TokenPerturbationGuidance(Method):
    """Guide away from self-attention over shuffled tokens (Rajabi et al. 2025, arXiv 2506.10036).

    Self-attention does not know the order of its tokens, so shuffled ones give the same results, each at the place of
    another token. The order is drawn anew in each step, the same for all pictures and for blocks of as many tokens. The
    paper shuffles all that passes a block; what passes the attention here keeps its place. `scale` times the curve is
    how far; 0 changes nothing, to the bit.
    """

    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip=AWAY)
    where: Where = acts("middle", kind="self")

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"token-perturbation guidance {self.scale:g}"

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Return the results in another order."""
        order = torch.randperm(site.tokens, generator=site.generator())
        return inner(q, k, v)[:, :, order.to(q.device)]
