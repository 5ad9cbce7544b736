"""Re-weighting of words: the attention that a prompt's words get is scaled (Hertz et al. 2022, arXiv 2208.01626)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, Widget, acts, amount, hidden, method, number
from ..engine.method import Method
from ..engine.prompts import columns, context_positions
from ..engine.site import Site
from ..engine.stack import Inner
from .calibration import WRITTEN, acting, means
from .words import check_positions, named, positions_of


@method(
    node="PatchbayWordWeight",
    title="Word Weight",
    text="Multiply the attention that words of the positive prompt get, in some blocks and for a part of the run. The "
    "prompt itself stays as it is, and so do the maps of its other words.",
    aliases=("attention re-weighting", "prompt weight", "cross attention weight", "emphasis"),
    gives="with this weight",
    asks=(
        Widget("clip", "CLIP", "The CLIP that the positive prompt is encoded with."),
        Widget("prompt", "STRING", "The text of the positive prompt.", settings=(("multiline", True),)),
        Widget("words", "STRING", "Words or phrases of the prompt, separated by commas."),
    ),
)
class WordWeight(Method):
    """Multiply the attention weights of some tokens of the positive prompt by `weight`, after the softmax.

    Prompt-to-prompt's attention re-weighting (Hertz et al. 2022, arXiv 2208.01626, section 4): the column of a token in
    the attention map M is scaled and the other columns stay as they are, so the rows of the map no longer sum to 1.
    M diag(c) V = M (diag(c) V), so the values are scaled and any attention function computes it.

    Args:
        positions: where the tokens stand in the prompt.
        texts: the words, as they were asked for.
        length: tokens of the whole prompt with its padding.
        strength: from 0 (weight 1) to 1 (all of `weight`), times the curve of the schedule.
        meaning: whether the weight is calibrated by what the text gets of the attention; see `calibration.py`.
    """

    positions: tuple[int, ...] = hidden(blank=())
    weight: float = number(
        1.5,
        -10.0,
        10.0,
        tip="The factor of their attention: 0 takes it away, 1 changes nothing, below 0 turns it around.",
    )
    length: int = hidden(77)
    strength: float = amount(effect="the weight is applied")
    where: Where = acts(kind="cross")
    meaning: str = means()
    texts: tuple[str, ...] = hidden(default=(), compare=False)

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> WordWeight:
        """Find the words in the prompt."""
        return cls(**fields | positions_of(asked))

    @classmethod
    def check_asked(cls, asked: Mapping[str, Any]) -> None:
        """Refuse no words at all."""
        words = asked["words"]
        if words is not None and not words.strip(" ,"):
            raise Refused("words is empty; write some of the prompt's words, separated by commas", "words")

    def check(self) -> None:
        """Refuse positions outside the prompt."""
        check_positions(self.positions, self.length)

    @property
    def neutral(self) -> bool:
        """Return whether the weight can never change anything."""
        return self.weight == 1.0 or self.strength == 0.0 or not self.positions

    @property
    def label(self) -> str:
        """Describe the method."""
        how = "" if self.meaning == WRITTEN else f" {self.meaning}"
        what = ", ".join(self.texts) or f"tokens {named((), self.positions)}"
        return f"word weight {self.weight:g}{how} of {what}{self.times}"

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether the call is not for the positive prompt."""
        return "" if site.swapped or not site.rows() else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with scaled values of the words."""
        (weight,) = acting(self.meaning, [self.weight], site, (q, k, v))
        return inner(q, k, weighted(v, site, self.length, ((self.positions, weight),)))


def weighted(v: Tensor, site: Site, length: int, weights: Iterable[tuple[Sequence[int], float]]) -> Tensor:
    """Return values (b, h, n, d) with tokens of the positive prompt, of `length` tokens, multiplied by their weight."""
    for place, rows in enumerate(site.rows()):
        for positions, weight in weights:
            some = columns(context_positions(positions, length, v, site, place=place), site)
            v = scaled(v, rows, some, 1.0 + (weight - 1.0) * site.weight)
    return v


def scaled(v: Tensor, rows: slice, positions: Sequence[int], factor: float) -> Tensor:
    """Return values (b, h, n, d) with some tokens of some rows multiplied."""
    v = v.clone()
    v[rows, :, list(positions)] *= factor
    return v
