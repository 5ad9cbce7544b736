"""Injection of attention maps: the first image of a batch gives the others its layout."""

from __future__ import annotations

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import acts, amount, method
from ..engine.method import SLOTS, Method
from ..engine.site import Site
from ..engine.stack import Inner


@method(
    node="PatchbayMapInjection",
    title="Attention Map Injection",
    text="Let every picture of a batch attend with the queries and keys of the first one: the structure of the first, "
    "the content of each.",
    aliases=("plug-and-play", "PnP", "attention injection", "shared structure", "consistent layout"),
    gives="that takes the maps over",
)
class MapInjection(Method):
    """Let every image of a batch attend with the queries and keys of the first one, and with its own values.

    The injection of self-attention of plug-and-play diffusion features (Tumanyan et al. 2022, arXiv 2211.12572, section
    3): the structure comes from the first image, the content from the prompts and noise of the others. It acts on
    cond and on uncond rows, each with maps of their own. `strength` goes from 0 (own maps) to 1 (the first
    image's), times the curve of the schedule.
    """

    strength: float = amount(tip="How much of the first picture's maps is taken, 0 to 1; 0 takes none.")
    where: Where = acts(
        "output",
        kinds=("all", "self", "cross"),
        kind_default="self",
        kind_tip="Which maps: of self-attention, of cross-attention to the text, or of both.",
        end=0.5,
    )

    @property
    def slot(self) -> str:
        """Return the slot of the first kind it works on."""
        return SLOTS.get(self.address.kind, "attn1")

    @property
    def label(self) -> str:
        """Describe it."""
        return f"attention maps of the first picture {self.strength:g}"

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether a chunk has one image only, or its rows are references."""
        if site.of_reference:
            return ""
        return "the batch holds one picture" if site.batch <= site.parts else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with the first image's queries and keys."""
        chunks = site.parts
        shared = inner(of_first(q, chunks), of_first(k, chunks), v)
        return shared if site.weight == 1.0 else torch.lerp(inner(q, k, v), shared, site.weight)


def of_first(x: Tensor, chunks: int) -> Tensor:
    """Return queries or keys (b, ...) with the first row of each chunk in all of its rows."""
    by_chunk: Tensor = x.unflatten(0, (chunks, -1))
    return by_chunk[:, :1].expand_as(by_chunk).flatten(0, 1)
