"""Words among the tokens of text encoders of language models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from attention_patchbay.ldm_patched.patches.methods.alignment import token_ids
from attention_patchbay.ldm_patched.patches.methods.streams import between, letters, places_of, stream_of
from attention_patchbay.ldm_patched.patches.methods.words import locate, spoken
from hypothesis import given
from hypothesis import strategies as st

PIECES = [
    "<|system|>",
    "a",
    "\u0120image",
    "<|user|>",
    "A",
    "\u0120red",
    "\u0120fox",
    "glove",
    "\u0120\u00c3\u00bc",
    "<|end|>",
    "Red",
]
PROMPTS = {"": [], "A red fox": [4, 5, 6], "A red foxglove": [4, 5, 6, 7], "Red image \u00fc": [10, 2, 8]}


class Qwen:
    """A tokenizer with a template around the prompt, and one of CLIP's beside it."""

    def __init__(self) -> None:
        names = dict(enumerate(PIECES))
        self.tokenizer = SimpleNamespace(clip_qwen25_7b=SimpleNamespace(inv_vocab=names))

    def tokenize(self, text: str) -> dict[str, Any]:
        tokens = [0, 1, 2, 3, *PROMPTS[text], 9]
        return {"l": [[(49406, 1.0)] * 77], "qwen25_7b": [[(token, 1.0) for token in tokens]]}


def test_the_text_is_that_of_the_language_model() -> None:
    assert stream_of(Qwen().tokenize("")) == "qwen25_7b" and stream_of({"g": [], "l": []}) == "g"
    assert stream_of({"qwen25_7b": [], "byt5": []}) == "qwen25_7b" and stream_of({"l": [], "t5xxl": []}) == "t5xxl"
    assert token_ids(Qwen(), "A red fox") == (0, 1, 2, 3, 4, 5, 6, 9)


def test_words_are_found_behind_blanks_and_at_the_start() -> None:
    assert locate(Qwen(), "A red fox", "red") == (5,) and locate(Qwen(), "Red image \u00fc", "red") == (4,)
    assert locate(Qwen(), "A red foxglove", "foxglove") == (6, 7)
    assert locate(Qwen(), "Red image \u00fc", "\u00dc") == (6,)


def test_a_word_of_the_template_or_a_part_of_another_is_none_of_the_prompt() -> None:
    assert locate(Qwen(), "Red image \u00fc", "image") == (5,) and spoken(Qwen(), "Red image \u00fc") == (4, 5, 6)
    for prompt, word in (("A red fox", "image"), ("A red foxglove", "fox")):
        with pytest.raises(ValueError, match=f"has no '{word}'"):
            locate(Qwen(), prompt, word)


def test_a_tokenizer_that_tells_nothing_is_named() -> None:
    with pytest.raises(ValueError, match="text encoder 't5xxl' does not tell"):
        letters(SimpleNamespace(), "t5xxl", [1])


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)), st.lists(st.integers(4, 9)))
def test_a_prompt_is_what_the_template_has_not(front: list[int], behind: list[int], prompt: list[int]) -> None:
    begin, end = between([*front, *prompt, *behind], [*front, *behind])
    assert [*front, *prompt, *behind][begin:end] == prompt


@given(st.lists(st.sampled_from([b"fox", b" fox", b"den", b" ", b"-"]), max_size=9))
def test_a_word_is_found_once_for_each_time_it_stands(pieces: list[bytes]) -> None:
    found = places_of("fox", pieces, 0, len(pieces))
    words = b"".join(pieces).replace(b"-", b" ").split()
    assert len(found) == words.count(b"fox") and all(b"fox" in pieces[place] for place in found)
