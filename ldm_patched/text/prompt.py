"""Prompts: weights in parentheses, and chunks of the length a text encoder takes.

`(word)` weighs 1.1, `(word:1.3)` weighs 1.3, parentheses nest, and `\\(` and `\\)` are plain parentheses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from .embeddings import IDENTIFIER, FindVectors, cut_at_embeddings, read_embedding

EMPHASIS = 1.1
DEEPEST = 100  # parentheses within parentheses
LARGE_GROUP = 8  # a group of that many tokens is cut at a chunk's end, a smaller one moves to the next chunk

_OPEN, _CLOSE = "\x00", "\x01"  # stand for escaped parentheses while weights are parsed

Token = int | Tensor  # an id, or a vector of an embedding
TokenWeight = tuple[Token, float]


class Tokenizer(Protocol):
    """What a Hugging Face tokenizer and the demo's have in common; ids come between a start and an end token."""

    def __call__(self, text: str) -> Any:
        """Return a mapping with `input_ids`."""
        ...


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Split a prompt into pieces with their weights; escaped parentheses come out plain.

    Raises ValueError for parentheses nested too deep.
    """
    hidden = text.replace("\\)", _CLOSE).replace("\\(", _OPEN)
    pieces = _weights(hidden, 1.0, 0)
    return [(piece.replace(_OPEN, "(").replace(_CLOSE, ")"), weight) for piece, weight in pieces]


def _weights(text: str, weight: float, depth: int) -> list[tuple[str, float]]:
    if depth > DEEPEST:
        raise ValueError(f"the prompt has parentheses nested over {DEEPEST} deep; write a weight as (word:1.5)")
    pieces: list[tuple[str, float]] = []
    for group in _groups(text):
        if len(group) >= 2 and group[0] == "(" and group[-1] == ")":
            pieces += _weights(*_emphasis(group[1:-1], weight), depth + 1)
        else:
            pieces.append((group, weight))
    return pieces


def _emphasis(inner: str, weight: float) -> tuple[str, float]:
    text, colon, number = inner.rpartition(":")
    if colon and text:
        try:
            return text, float(number)
        except ValueError:
            pass  # a colon of the text itself
    return inner, weight * EMPHASIS


def _groups(text: str) -> list[str]:
    """Cut a text at its outermost parentheses; unbalanced ones stay in the text."""
    groups, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char == "(":
            if depth == 0 and start < i:
                groups.append(text[start:i])
                start = i
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                groups.append(text[start : i + 1])
                start = i + 1
    return [*groups, text[start:]] if start < len(text) else groups


class PromptTokenizer:
    """Turn prompts into chunks of `(id, weight)` with start, end and padding tokens."""

    def __init__(self, tokenizer: Tokenizer, max_length: int = 77, pad_with_end: bool = True) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.start_token, self.end_token = tokenizer("")["input_ids"]
        self.pad_token = self.end_token if pad_with_end else 0

    def tokenize_with_weights(self, text: str, vectors: FindVectors | None = None) -> list[list[TokenWeight]]:
        """Return at least one chunk of exactly `max_length` tokens; `vectors` gives those of embeddings by name."""
        chunks: list[list[TokenWeight]] = [[]]
        length = self.max_length - 2
        for group in self._groups(text, vectors):
            large = len(group) >= LARGE_GROUP
            while len(group) > length - len(chunks[-1]):
                fitting = length - len(chunks[-1]) if large else 0
                chunks[-1] += group[:fitting]
                chunks.append([])
                group = group[fitting:]
            chunks[-1] += group
        return [self._close(chunk) for chunk in chunks]

    def _groups(self, text: str, vectors: FindVectors | None) -> Iterator[list[TokenWeight]]:
        """Yield the tokens that stay together where there is room."""
        for piece, weight in parse_weights(text):
            for words in [piece] if vectors is None else cut_at_embeddings(piece):
                rest = words
                if vectors is not None and words.startswith(IDENTIFIER):
                    found, rest = read_embedding(words, vectors)
                    yield [] if found is None else [(vector, weight) for vector in found]
                if rest:
                    yield [(token, weight) for token in self.tokenizer(rest)["input_ids"][1:-1]]

    def empty_tokens(self) -> list[Token]:
        """Return the ids of the empty prompt, which weights interpolate from."""
        return [token for token, _ in self._close([])]

    def _close(self, chunk: Sequence[TokenWeight]) -> list[TokenWeight]:
        padding = self.max_length - 2 - len(chunk)
        return [(self.start_token, 1.0), *chunk, (self.end_token, 1.0), *[(self.pad_token, 1.0)] * padding]
