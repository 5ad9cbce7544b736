"""Sparse cross-attention beside the dense one: words that hardly matter fall out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, choice, method, number
from ..engine.method import Method
from ..engine.scores import sliced_scores, with_beside
from ..engine.site import Beside, Site
from ..engine.stack import Inner
from .entmax import entmax15, sparsemax

FORMS = {"entmax": entmax15, "sparsemax": sparsemax}


@method(
    node="PatchbaySparseAttention",
    title="Sparse Cross-Attention",
    text="Extrapolate cross-attention from its dense to a sparse form, in which words that hardly matter fall out: "
    "closer to the prompt, without another model call.",
    aliases=("PLADIS", "sparse attention", "entmax", "sparsemax"),
    gives="with this attention",
)
class SparseAttention(Method):
    """Extrapolate cross-attention from dense to sparse weights (PLADIS, Kim & Jeong 2025, arXiv 2503.07677).

    `out = dense + scale * (sparse - dense)`, where the sparse result has the weights of `form`: `entmax` (1.5-entmax)
    or `sparsemax`. The curve of the schedule scales it; scale 0 changes nothing, to the bit. The difference is taken on
    the prompt of the sampler alone and added to what methods further in make of the attention, so it undoes none.
    """

    scale: float = number(2.0, -10.0, 10.0, step=0.1, tip="From dense (0: changes nothing) to sparse (1) and beyond.")
    form: str = choice(
        tuple(FORMS),
        "entmax",
        tip="entmax: 1.5-entmax, between softmax and sparsemax. sparsemax: the sparsest.",
    )
    where: Where = acts(kind="cross")

    def check(self) -> None:
        """Refuse a form that is none."""
        if self.form not in FORMS:
            raise Refused(f"unknown form {self.form!r}; choose one of {', '.join(FORMS)}", "form")

    @property
    def label(self) -> str:
        """Describe the method."""
        return f"sparse attention {self.form} {self.scale:g}"

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend, and add the difference."""
        out = inner(q, k, v)
        own = site.text or slice(None)
        change = sparse_change(q, k[:, :, own], v[:, :, own], self.form, site.beside)
        return out + site.weight * self.scale * change


def sparse_change(q: Tensor, k: Tensor, v: Tensor, form: str, beside: Sequence[Beside] = ()) -> Tensor:
    """Return sparse minus dense attention for (b, h, n, d), computed in float32.

    Where other keys stand beside, those of k keep the share of the attention that they have among all.
    """
    weigh, found = FORMS[form], []
    for scores in sliced_scores(q, with_beside(k, beside)):
        own = scores[..., : k.shape[2]]
        share = (own.logsumexp(-1, keepdim=True) - scores.logsumexp(-1, keepdim=True)).exp() if beside else 1.0
        found.append(share * (weigh(own) - own.softmax(-1)) @ v.float())
    return torch.cat(found, dim=2).to(q.dtype)
