"""Where words may act: outside a mask, the image cannot attend to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..addressing.frames import parse_frames
from ..addressing.where import Where
from ..engine.at_tokens import at_tokens, during
from ..engine.declaration import Widget, acts, amount, hidden, method, words
from ..engine.method import Method
from ..engine.prompts import columns, context_positions
from ..engine.site import Site
from ..engine.stack import Inner
from .words import check_positions, named, positions_of

FRAMES = (
    "When in a video the words may act: 0-50%, 0-12 or 25- of its frames, several with commas, fade 8 behind them for "
    "soft edges; empty: always."
)


@method(
    node="PatchbayWordMask",
    title="Word Mask",
    text="Say where words of the prompt may act: outside the mask, the picture cannot attend to them.",
    aliases=("attention mask", "token mask", "limit word", "color bleeding", "prompt mask"),
    gives="with this limit",
    asks=(
        Widget("clip", "CLIP", "The CLIP that encodes the prompt."),
        Widget("mask", "MASK", "Where the words may act, of any size; one, or one for each picture or frame."),
        Widget(
            "prompt",
            "STRING",
            "The positive prompt, as it is encoded.",
            settings=(("default", ""), ("multiline", True)),
        ),
        Widget("words", "STRING", "Words or phrases of the prompt, parted by commas.", settings=(("default", ""),)),
    ),
)
class WordMask(Method):
    """Let only the masked part of the image attend to some words.

    `positions` are those of the words, `texts`, in the prompt of `length` tokens, `mask` (b, h, w) of 0 to 1
    says where they may act; b is 1, the number of images, or that of a video's frames. A token at mask m gets m times
    its usual result and 1 - m times that of attention in which the words' keys are missing, which is the softmax with
    their scores at -inf. `strength` (0..1) times the curve is how much of this is applied. Only the positive prompt is
    changed. In a video the mask is nothing outside of the `frames`.
    """

    positions: tuple[int, ...] = hidden(blank=())
    mask: Tensor = hidden(blank=torch.ones(1, 1, 1))
    length: int = hidden(77)
    strength: float = amount(effect="the limit is applied")
    where: Where = acts(kind="cross")
    frames: str = words("", optional=True, tip=FRAMES)
    texts: tuple[str, ...] = hidden((), compare=False)

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> WordMask:
        """Find the words in the prompt."""
        found = positions_of(asked)
        if asked:
            mask = asked["mask"]
            found["mask"] = mask if mask.ndim == 3 else mask[None]
        return cls(**fields | found)

    def check(self) -> None:
        """Refuse a mask that is none, frames that cannot be read, and positions outside the prompt."""
        parse_frames(self.frames)
        if self.mask.ndim != 3:
            raise ValueError(f"the mask has the shape {tuple(self.mask.shape)}; give (pictures, height, width)")
        check_positions(self.positions, self.length)

    @property
    def neutral(self) -> bool:
        """Return whether the method can never change anything."""
        everywhere = bool((self.mask >= 1.0).all()) and not self.frames.strip()
        return self.strength == 0.0 or not self.positions or everywhere

    @property
    def pictured(self) -> bool:
        """Return that a mask lies on a picture."""
        return True

    @property
    def label(self) -> str:
        """Describe the method."""
        return f"words {named(self.texts, self.positions)} within a mask{told(self.frames)}{self.times}"

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether the call is not for the positive prompt."""
        return "" if site.swapped or not site.rows() else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with the words and without them."""
        return limited(self.outside(site, q.device), self.positions, self.length, site, (q, k, v), inner)

    def outside(self, site: Site, device: torch.device) -> Tensor:
        """Return what of each token (b, 1, n, 1) lies outside the mask; made once a run for each grid."""

        def make() -> Tensor:
            mask = at_tokens(site, self.mask.to(device, torch.float32).clamp(0.0, 1.0))
            return 1.0 - timed(mask, self.frames, site)[:, None, :, None]

        return site.once(f"outside {site.layout} {device}", make)


def timed(mask: Tensor, frames: str, site: Site) -> Tensor:
    """Return a mask at tokens (b, n) that is nothing outside of some frames, where any are named."""
    found = parse_frames(frames)
    return mask if found is None else mask * during(site, found, mask.device)


def told(frames: str) -> str:
    """Return how to name frames behind a mask."""
    return f" in frames {frames.strip()}" if frames.strip() else ""


def limited(
    outside: Tensor,
    positions: Sequence[int],
    length: int,
    site: Site,
    qkv: tuple[Tensor, Tensor, Tensor],
    inner: Inner,
) -> Tensor:
    """Attend with and without some words of a prompt, mixed by `outside` (b, 1, n, 1) times the weight."""
    q, k, v = qkv
    out = inner(q, k, v).clone()
    outside = outside * site.weight
    found: dict[tuple[int, ...], Tensor] = {}  # combined prompts can have the words in other places
    for place, some in enumerate(site.rows()):
        words = tuple(context_positions(positions, length, k, site, place=place))
        if words not in found:
            found[words] = without(words, site, q, k, v, inner)
        out[some] = torch.lerp(out[some], found[words][some], outside[some].to(out.dtype))
    return out


def without(words: Sequence[int], site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
    """Attend without the words at some places of the context."""
    gone = set(columns(words, site))
    left = [column for column in range(k.shape[2]) if column not in gone]
    length = None if site.length is None else site.length - len(gone)
    return inner(q, k[:, :, left], v[:, :, left], site.but(left_out=site.left_out | set(words), length=length))
