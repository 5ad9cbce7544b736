"""Weights of a prompt's words on their attention, below zero too, whatever the text encoder makes of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from torch import Tensor

from ...text.prompt import parse_weights
from ..addressing.where import Where
from ..engine.declaration import Output, Widget, acts, amount, hidden, method
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner
from .alignment import Clip, Tokenized, ids_of
from .calibration import WRITTEN, acting, means
from .streams import between, letters, stream_of
from .word_weight import weighted
from .words import check_positions


@method(
    node="PatchbayWeightedPrompt",
    title="Weighted Prompt",
    text="Encode a prompt whose weights act on the attention of its words: (fog:1.5) gets more, (fog:0) none, (fog:-1) "
    "is turned around. The text encoder sees no weights, so they work on models that ignore them.",
    aliases=("negpip", "negative weight", "prompt weight", "emphasis"),
    gives="with the weights of this prompt",
    asks=(
        Widget("clip", "CLIP", "The CLIP to encode the prompt with."),
        Widget(
            "prompt",
            "STRING",
            "The positive prompt: (word:1.5), (word) for 1.1, (word:-1); parentheses nest, \\( and \\) are plain.",
            settings=(("multiline", True),),
        ),
    ),
    outputs=(Output("CONDITIONING", "positive", "The prompt without its weights, for the sampler."),),
)
class WeightedPrompt(Method):
    """Multiply the attention of each token of the positive prompt by its own weight, after the softmax.

    Prompt-to-prompt's re-weighting (Hertz et al. 2022, arXiv 2208.01626, section 4) with a factor for each token; a
    factor below 0 takes away what the word would bring, as a negative prompt inside of the positive one.

    Args:
        positions: where the tokens with a weight stand in the prompt.
        factors: the weight of each.
        length: tokens of the whole prompt with its padding.
        strength: from 0 (all 1) to 1 (all of the weights), times the curve of the schedule.
        meaning: whether the weights are calibrated by what the text gets of the attention; see `calibration.py`.
    """

    positions: tuple[int, ...] = hidden(blank=())
    factors: tuple[float, ...] = hidden(blank=())
    length: int = hidden(77)
    strength: float = amount(effect="the weights is applied")
    where: Where = acts(kind="cross")
    meaning: str = means()

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> WeightedPrompt:
        """Read the weights."""
        if not asked:
            return cls(**fields)
        tokens, factors = read(asked["clip"], asked["prompt"])
        length = len(ids_of(asked["clip"], tokens))
        some = {place: factor for place, factor in factors.items() if place < length}
        return cls(**fields | {"positions": tuple(some), "factors": tuple(some.values()), "length": length})

    @classmethod
    def results(cls, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the prompt for the sampler."""
        clip = inputs["clip"]
        return (clip.encode_from_tokens_scheduled(read(clip, inputs["prompt"])[0]),)

    def check(self) -> None:
        """Refuse positions outside the prompt."""
        check_positions(self.positions, self.length)
        if len(self.positions) != len(self.factors):
            raise ValueError(f"{len(self.positions)} tokens have {len(self.factors)} weights; give each its own")

    @property
    def neutral(self) -> bool:
        """Return whether no word has a weight."""
        return self.strength == 0.0 or not self.positions

    @property
    def label(self) -> str:
        """Describe the weights."""
        how = "" if self.meaning == WRITTEN else f" {self.meaning}"
        weights = ", ".join(f"{factor:g}" for factor in dict.fromkeys(self.factors)) or "of 1"
        return f"weights {weights}{how}{self.times}"

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether the call is not for the positive prompt."""
        return "" if site.swapped or not site.rows() else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with scaled values of the words."""
        places: dict[float, list[int]] = {}
        for position, factor in zip(self.positions, self.factors, strict=True):
            places.setdefault(factor, []).append(position)
        factors = acting(self.meaning, list(places), site, (q, k, v))
        return inner(q, k, weighted(v, site, self.length, zip(places.values(), factors, strict=True)))


def read(clip: Clip, prompt: str) -> tuple[Tokenized, dict[int, float]]:
    """Return the tokens of a prompt without its weights, and the weight of each place in the context that has one.

    Hosts read weights for CLIP's encoders and T5; where one takes the parentheses for text, as Qwen's, they are read
    here. Raises ValueError where the tokens do not tell which words they are.
    """
    tokens = clip.tokenize(prompt)
    given = [entry[1] for chunk in tokens[stream_of(tokens)] for entry in chunk]
    if any(weight != 1.0 for weight in given):
        return _without_weights(tokens), {place: one for place, one in enumerate(given) if one != 1.0}
    parts = parse_weights(prompt)
    if all(weight == 1.0 for _, weight in parts):
        return tokens, {}
    tokens = clip.tokenize("".join(text for text, _ in parts))
    return tokens, _by_letters(clip, tokens, parts)


def _without_weights(tokens: Tokenized) -> Tokenized:
    return {
        name: [[(entry[0], 1.0, *entry[2:]) for entry in chunk] for chunk in chunks] for name, chunks in tokens.items()
    }


def _by_letters(clip: Clip, tokens: Tokenized, parts: Iterable[tuple[str, float]]) -> dict[int, float]:
    """Return the weight of each token by the letters that it has of the weighted parts; blanks do not count."""
    stream = stream_of(tokens)
    some, empty = ([entry[0] for chunk in one[stream] for entry in chunk] for one in (tokens, clip.tokenize("")))
    begin, end = between(some, empty)
    pieces = [_letters(piece) for piece in letters(clip, stream, some)[begin:end]]
    weights = [weight for text, weight in parts for _ in _letters(text.encode())]
    if len(weights) != sum(map(len, pieces)):
        raise ValueError(
            f"the tokens of the text encoder {stream!r} have other letters than the prompt, so nobody knows which are "
            "the weighted words; write the prompt without weights, and use Word Weight"
        )
    starts = accumulate((len(piece) for piece in pieces), initial=0)
    found = {
        place: weights[start] for place, (start, piece) in enumerate(zip(starts, pieces, strict=False), begin) if piece
    }
    return {place: weight for place, weight in found.items() if weight != 1.0}


def _letters(text: bytes) -> bytes:
    return b"".join(text.split())
