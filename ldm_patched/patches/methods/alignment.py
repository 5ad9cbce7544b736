"""Which tokens of one prompt stand for which of another (the seq_aligner of Hertz et al. 2022, arXiv 2208.01626)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Protocol

import torch
from torch import Tensor

from .streams import end_of_text, is_language_model, stream_of

MOST = 100_000  # pairs of equal tokens, of which each may be looked at for each token: seconds
EMBEDDING = -1  # stands for a token that is a vector, not an id

Tokens = tuple[int, ...]
Tokenized = Mapping[str, Sequence[Sequence[Sequence[Any]]]]  # token, weight and more of each place, for each encoder


class Clip(Protocol):
    """The CLIP of nodes."""

    def tokenize(self, text: str, /) -> Tokenized:
        """Return the tokens of a text in chunks."""


def token_ids(clip: Clip, prompt: str) -> Tokens:
    """Return the token of each place in the context that a CLIP makes of a prompt, with its start, end and padding.

    With two text encoders of CLIP's it is the one with fewer tokens, to which a host cuts the context; beside that of a
    language model they do not count. What an encoder cuts off behind the prompt is left out.
    """
    return ids_of(clip, clip.tokenize(prompt))


def ids_of(clip: Clip, tokenized: Tokenized) -> Tokens:
    """Return the token of each place in the context of what a CLIP has tokenized; see `token_ids`."""
    if is_language_model(tokenized):
        tokenized = {stream_of(tokenized): tokenized[stream_of(tokenized)]}
    encoders = [[entry[0] for chunk in chunks for entry in chunk] for chunks in tokenized.values()]
    tokens = [token if isinstance(token, int) else EMBEDDING for token in min(encoders, key=len)]
    return tuple(tokens[: end_of_text(clip, tokens)])


def alignment(source: Sequence[int], edited: Sequence[int]) -> Tensor:
    """Return how the attention of the source's tokens is shared out among those of the edited prompt (n, m).

    Equal tokens in equal order stand for each other, and so do the words that replace some at their place: one for one
    where they are as many, else each gets an equal part of what all of those got. A column of zeros is a new token,
    which keeps its own attention; a row of zeros is one that is gone. Raises ValueError for prompts that repeat too
    much.
    """
    counts = Counter(edited)
    if sum(counts[token] for token in source) > MOST:
        raise ValueError("the two prompts repeat the same words too often to tell which stand for which; shorten them")
    shares = torch.zeros(len(source), len(edited))
    matcher = SequenceMatcher(None, source, edited, autojunk=False)
    for operation, i1, i2, j1, j2 in matcher.get_opcodes():
        if operation == "equal" or (operation == "replace" and i2 - i1 == j2 - j1):
            shares[range(i1, i2), range(j1, j2)] = 1.0
        elif operation == "replace":
            shares[i1:i2, j1:j2] = 1.0 / (j2 - j1)
    return shares


def repeated(shares: Tensor, tokens: int) -> Tensor:
    """Return shares (n, m) for both prompts repeated to `tokens`: (tokens, tokens)."""
    n, m = shares.shape
    return shares.repeat(tokens // n, tokens // m) * (m / tokens)
