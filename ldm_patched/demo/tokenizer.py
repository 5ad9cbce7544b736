"""Turn captions into token ids: one id per word of the closed vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from . import CONTEXT_LENGTH
from .captions import WORDS

START, END, UNKNOWN = 0, 1, 2
_SPECIAL = ("<start>", "<end>", "<unk>")
VOCABULARY = {word: i for i, word in enumerate((*_SPECIAL, *WORDS))}


class DemoTokenizer:
    """Split a text into words; a word outside the vocabulary gets the id of `<unk>`.

    It has the part of a Hugging Face tokenizer's interface that ComfyUI's SDTokenizer asks for.
    """

    @classmethod
    def from_pretrained(cls, path: object = None, **options: Any) -> DemoTokenizer:
        """Make a tokenizer; it needs no files."""
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Tokenize a text, between a start and an end token."""
        words = re.findall(r"[a-z]+", text.lower())
        return {"input_ids": [START, *(VOCABULARY.get(word, UNKNOWN) for word in words), END]}

    def get_vocab(self) -> dict[str, int]:
        """Give the id of every word."""
        return dict(VOCABULARY)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Write ids as words."""
        words = tuple(VOCABULARY)
        return " ".join(words[i] for i in ids if not (skip_special_tokens and i < len(_SPECIAL)))


def pad(ids: list[int], length: int = CONTEXT_LENGTH) -> list[int]:
    """Fill up with end tokens, as CLIP does."""
    if len(ids) > length:
        raise ValueError(f"{len(ids)} tokens do not fit into {length}")
    return ids + [END] * (length - len(ids))
