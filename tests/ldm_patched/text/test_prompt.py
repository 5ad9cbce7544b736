"""Prompt weights and chunks."""

from __future__ import annotations

from typing import Any

import pytest
from attention_patchbay.ldm_patched.demo.tokenizer import END, START, VOCABULARY, DemoTokenizer
from attention_patchbay.ldm_patched.text.prompt import PromptTokenizer, parse_weights

PIECES: dict[str, list[tuple[str, float]]] = {
    "": [],
    "a red circle": [("a red circle", 1.0)],
    "a (red) circle": [("a ", 1.0), ("red", 1.1), (" circle", 1.0)],
    "a (red:1.3) circle": [("a ", 1.0), ("red", 1.3), (" circle", 1.0)],
    "((red))": [("red", 1.1 * 1.1)],
    "((red:0.5) circle)": [("red", 0.5), (" circle", 1.1)],
    "(red (circle:2):0.5)": [("red ", 0.5), ("circle", 2.0)],
    "(red (circle):0.5)": [("red ", 0.5), ("circle", 0.5 * 1.1)],
    r"a \(red\) circle": [("a (red) circle", 1.0)],
    r"(a \(red\):1.2)": [("a (red)", 1.2)],
    "(a: b)": [("a: b", 1.1)],
    "(:1.2)": [(":1.2", 1.1)],
    "(red:-1)": [("red", -1.0)],
    "(red": [("(red", 1.0)],
    "red) (circle)": [("red) (circle)", 1.0)],
    "()": [],
}


@pytest.mark.parametrize("text", PIECES)
def test_weights(text: str) -> None:
    assert parse_weights(text) == [(piece, pytest.approx(weight)) for piece, weight in PIECES[text]]


class Letters:
    """One token for each letter, from 10 on."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [0, *(ord(c) - ord("a") + 10 for c in text if c.isalpha()), 1]}


def chunks(text: str, **options: Any) -> list[list[int]]:
    made = PromptTokenizer(Letters(), max_length=12, **options).tokenize_with_weights(text)
    return [[token for token, _ in chunk] for chunk in made]


def test_a_chunk_has_start_end_and_padding() -> None:
    assert chunks("abc") == [[0, 10, 11, 12, 1, *[1] * 7]]
    assert chunks("abc", pad_with_end=False) == [[0, 10, 11, 12, 1, *[0] * 7]]
    assert chunks("") == [[0, 1, *[1] * 10]]
    assert chunks("a" * 10) == [[0, *[10] * 10, 1]]


def test_a_long_piece_is_cut_at_the_chunks_end() -> None:
    assert chunks("a" * 13) == [[0, *[10] * 10, 1], [0, *[10] * 3, 1, *[1] * 7]]


def test_a_short_piece_moves_to_the_next_chunk() -> None:
    assert chunks("aaaaaaaa(bbb)") == [[0, *[10] * 8, 1, 1, 1], [0, 11, 11, 11, 1, *[1] * 7]]


def test_weights_follow_their_tokens_into_the_next_chunk() -> None:
    first, second = PromptTokenizer(Letters(), max_length=12).tokenize_with_weights("aaaaaaaa(bbb:0.5)")
    assert {weight for _, weight in first} == {1.0}
    assert [weight for _, weight in second] == [1.0, 0.5, 0.5, 0.5, *[1.0] * 8]


def test_demo_words() -> None:
    tokenizer = PromptTokenizer(DemoTokenizer())
    (chunk,) = tokenizer.tokenize_with_weights("a (red:1.2) circle")
    assert chunk[:5] == [
        (START, 1.0),
        (VOCABULARY["a"], 1.0),
        (VOCABULARY["red"], 1.2),
        (VOCABULARY["circle"], 1.0),
        (END, 1.0),
    ]
    assert len(chunk) == 77
    assert tokenizer.empty_tokens() == [START, *[END] * 76]
