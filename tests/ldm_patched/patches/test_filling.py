"""Texts of several lengths in one batch, and what a network makes of a text by its length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.engine.block_forward import CALLED
from attention_patchbay.ldm_patched.patches.engine.filling import Filling, filling_of
from attention_patchbay.ldm_patched.patches.engine.rows import ROWS, Rows
from attention_patchbay.ldm_patched.patches.engine.text_forward import padded, padding, text
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens, tokens_of
from hypothesis import given
from hypothesis import strategies as st

from .models import draw

LUMINA = FAMILIES["NextDiT"]
ROWS_OF_TWO = Rows(2, (0,), 1, ((1, 8),), 4, 8, {}, True, (1, 3))  # two rows of 4 tokens and a prompt of 8


@contextmanager
def in_a_call(**options: Any) -> Iterator[None]:
    before = CALLED.set(options)
    try:
        yield
    finally:
        CALLED.reset(before)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.booleans(), st.sampled_from([1, 32]))
def test_every_text_is_filled_up_to_one_length_and_keeps_its_tokens(
    lengths: list[int], ends: bool, multiple: int
) -> None:
    made = Tokens(LUMINA, (1, 4, 6), padding=8, references=5, multiple=multiple, ends=ends or multiple > 1)
    filling = filling_of(made, lengths)
    for length in lengths:
        x, size = draw(length, 2, length, 3), filling.size(length)
        filled, mask = filling.text(x), filling.mask(torch.ones(2, length))
        assert filled.shape == (2, filling.tokens, 3) and mask.shape == filled.shape[:2]
        start = filling.tokens - size if filling.ends else 0
        assert torch.equal(filled[:, start : start + length], x)
        assert torch.equal(filled[mask.bool()], x.flatten(0, 1))
        torch.testing.assert_close(filled.mean(1), x.mean(1))
        assert size - length < multiple
    if len(set(lengths)) > 1:
        assert filling.tokens not in (24, 32, 5, 37) and filling.tokens % multiple == 0


def test_texts_of_one_length_stay_as_they_are() -> None:
    assert filling_of(Tokens(LUMINA, (1, 4, 6), multiple=32, ends=True), [12, 12]) == Filling(12)


def test_behind_a_text_stand_the_tokens_that_the_network_has_learned() -> None:
    x, token = draw(1, 3, 8, 5), draw(2, 1, 5)
    with in_a_call(**{ROWS: ROWS_OF_TWO}):
        out = padded(x, token)
        assert torch.equal(padded(x[:1], token), x[:1])  # a text of something else
    assert torch.equal(out[:2, :7], x[:2, :7]) and torch.equal(out[:2, 7:], token.expand(2, 1, -1))
    assert torch.equal(out[2:, :5], x[2:, :5]) and torch.equal(out[2:, 5:], token.expand(1, 3, -1))


def test_what_fills_an_image_up_stays_as_far_in_front_of_a_text_as_it_was() -> None:
    image, zero = torch.tensor([9.0, 0.0, 1.0]), torch.zeros(3)
    positions = torch.stack([image, zero])[None]
    with in_a_call(**{ROWS: ROWS_OF_TWO, TOKENS: Tokens(LUMINA, (1, 1, 1), padding=1)}):
        out = padding(positions)
    assert torch.equal(out[:, 0], image.expand(3, -1))
    assert out[:, 1].tolist() == [[4.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 0.0]]
    with in_a_call(**{ROWS: ROWS_OF_TWO, TOKENS: Tokens(LUMINA, (1, 1, 1))}):
        assert padding(positions) is positions


def test_a_text_counts_from_its_own_beginning_on_the_axes_of_the_picture() -> None:
    positions = torch.arange(9)[None, :, None].repeat(3, 1, 3)
    with in_a_call(**{ROWS: ROWS_OF_TWO}):
        out = text(positions)
    assert torch.equal(out[..., 0], positions[..., 0]) and torch.equal(out[:, 8], positions[:, 8])
    assert out[0, 4:8, 1].tolist() == [0, 1, 2, 3] and out[2, :8, 2].tolist() == list(range(8))
    with in_a_call():
        assert text(positions) is positions and padding(positions) is positions
        assert padded(positions, positions[0]) is positions


@pytest.mark.parametrize(
    ("family", "net", "conds", "ends"),
    [
        ("Flux", {"params": SimpleNamespace(txt_ids_dims=[1, 2])}, {}, True),  # LongCat
        ("Flux", {"params": SimpleNamespace(txt_ids_dims=[3])}, {}, False),  # Flux 2
        ("HunyuanVideo", {"cond_type_embedding": None}, {"txt_byt5": torch.ones(1)}, True),  # HunyuanImage 2.1
        ("HunyuanVideo", {"cond_type_embedding": object()}, {"txt_byt5": torch.ones(1)}, False),  # HunyuanVideo 1.5
        ("HunyuanVideo", {}, {}, False),
        ("NextDiT", {}, {}, True),
    ],
)
def test_texts_end_together_where_something_counts_from_their_end(
    family: str, net: dict[str, Any], conds: dict[str, Any], ends: bool
) -> None:
    found = tokens_of(SimpleNamespace(patch_size=2, **net), FAMILIES[family], torch.zeros(1, 4, 8, 8), conds)
    assert found is not None and found.ends is ends
