"""One style for all images of a batch: each also attends to the first (Hertz et al. 2023, arXiv 2312.02133)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import acts, amount, method, switch
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner

EPSILON = 1e-5  # of the variance


@method(
    node="PatchbayStyleAligned",
    title="Style Aligned",
    text="Let every picture of a batch also attend to the first one in self-attention, so that all get its style. The "
    "first picture stays as it is.",
    aliases=("StyleAligned", "shared attention", "batch align", "consistent style", "consistent character"),
    gives="that shares its attention",
)
class StyleAligned(Method):
    """Let every row of a batch attend also to the first row of its chunk (cond or uncond), in self-attention.

    With `adain`, queries and keys get the mean and deviation of the first row's before. The first row itself stays as
    it is. `strength` (0..1) times the curve blends between the attention without and with it; between the two both are
    computed. 0 changes nothing, to the bit.
    """

    adain: bool = switch(True, tip="Give queries and keys the mean and deviation of the first picture's before.")
    strength: float = amount()
    where: Where = acts(kind="self")

    @property
    def before_positions(self) -> bool:
        """Return whether it gives queries and keys another mean."""
        return self.adain

    @property
    def label(self) -> str:
        """Describe it."""
        return f"style aligned{'' if self.adain else ' without AdaIN'}{self.times}"

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether a batch of one image has nothing to share, or is one of references."""
        if site.of_reference:
            return ""
        return "the batch holds one picture" if site.batch <= site.parts else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with the first rows shared."""
        chunks = site.parts
        shared_q, shared_k = q, k
        if self.adain:
            shared_q, shared_k = (site.before_positions(x, partial(as_first, chunks=chunks)) for x in (q, k))
        shared = attend_also(inner, shared_q, shared_k, v, first_rows(k, chunks), first_rows(v, chunks))
        return shared if site.weight == 1.0 else torch.lerp(inner(q, k, v), shared, site.weight)


def first_rows(x: Tensor, chunks: int) -> Tensor:
    """Return (b, ...) with every row replaced by the first of its chunk; the batch holds `chunks` equal ones."""
    return x[:: len(x) // chunks].repeat_interleave(len(x) // chunks, dim=0)


def as_first(x: Tensor, chunks: int) -> Tensor:
    """Return tokens (b, h, n, d) with the mean and deviation of the first row of their chunk."""
    return normalised(x, first_rows(x, chunks))


def normalised(x: Tensor, style: Tensor) -> Tensor:
    """Give each channel of tokens (b, h, n, d) the mean and deviation of another's: AdaIN (the paper's equation 3)."""
    correction = min(1, x.shape[2] - 1)  # a single token has no deviation
    variance, mean = torch.var_mean(x.float(), dim=2, correction=correction, keepdim=True)
    wanted_variance, wanted_mean = torch.var_mean(style.float(), dim=2, correction=correction, keepdim=True)
    factor = ((wanted_variance + EPSILON) / (variance + EPSILON)).sqrt()
    return ((x - mean) * factor + wanted_mean).to(x.dtype)


def attend_also(inner: Inner, q: Tensor, k: Tensor, v: Tensor, more_k: Tensor, more_v: Tensor) -> Tensor:
    """Attend to the keys and values (b, h, n, d) and to more of them, in one softmax."""
    return inner(q, torch.cat([k, more_k], dim=2), torch.cat([v, more_v], dim=2))
