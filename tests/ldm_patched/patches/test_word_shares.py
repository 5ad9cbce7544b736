"""What words get and bring: against the formula in float64, on a UNet and on joint attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods import capture
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Result, Word, word_weights
from attention_patchbay.ldm_patched.patches.methods.point_capture import PointCapture
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading.word_shares import FAINT, text, word_shares

from .models import draw, patcher, run

WORDS = (Word("two three", (2, 3)), Word("one", (1,)))
OTHERS = (Word("four", (4,)),)


@pytest.mark.parametrize("heads", [(), (0, 2)])
@pytest.mark.parametrize("beside", [0, 4])
def test_what_a_word_brings_is_the_norm_of_its_part_of_the_result(
    heads: tuple[int, ...], beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "SCORES", 100)  # many slices
    q, k, v = draw(1, 2, 3, 10, 4), draw(2, 2, 3, 7 + beside, 4), draw(3, 2, 3, 7 + beside, 4)
    weights = (q.double() @ k.double().transpose(-1, -2) / 2.0).softmax(-1)
    out = weights @ v.double()
    found = word_weights(q, k, [(1,), (2, 3)], heads, [(5,)], Result(v[:, :, :7], out.float()))
    assert found.brought is not None and found.brought.shape == (3, 2)
    some = list(heads or range(3))
    for word, columns in enumerate([(1,), (2, 3), (5,)]):
        expected = torch.zeros(2, dtype=torch.float64)
        for column in columns:
            part = weights[:, some, :, column, None] * v[:, some, None, column].double()  # (b, h, n, d)
            length = out[:, some].square().sum(dim=(1, 3)).sqrt()
            expected += (part.square().sum(dim=(1, 3)).sqrt() / length).mean(-1)
        assert (found.brought[word].double() - expected).abs().max() < 1e-6


def test_the_rows_are_those_of_the_prompt_in_its_order() -> None:
    model = attach(patcher(), Capture(WORDS, 7, others=OTHERS))
    rows = word_shares(model, run(model))
    assert [(row["word"], row["tokens"]) for row in rows] == [("one", 1), ("two three", 2), ("four", 1)]
    assert max(row["relative"] for row in rows) == 1.0 and all(0 < row["share"] < row["tokens"] for row in rows)
    assert all(row["faint"] is (row["relative"] < FAINT) for row in rows)
    assert [line.split("  ")[0] for line in text(rows).splitlines()] == ["word", "one", "two three", "four"]


def test_shares_are_the_mean_of_all_calls_whatever_the_curve() -> None:
    model = attach(patcher(), Capture(tuple(Word(str(i), (i,)) for i in range(7)), 7))
    rows = word_shares(model, run(model))
    assert sum(row["share"] for row in rows) == pytest.approx(1.0, abs=1e-5)
    curved = attach(patcher(), Capture(WORDS, 7, Where.of(curve="0:1, 1:0.5", kind="cross"), others=OTHERS))
    by_word = {row["word"]: row["share"] for row in word_shares(curved, run(curved))}
    assert by_word["one"] == pytest.approx(rows[1]["share"], rel=1e-5)
    assert by_word["two three"] == pytest.approx(rows[2]["share"] + rows[3]["share"], rel=1e-5)


def test_a_word_whose_values_are_taken_away_brings_nothing() -> None:
    """A capture behind a factor of 0 sees the values of it, and what the others bring."""

    def brings(model: Any) -> float:
        return {row["word"]: row["brings"] for row in word_shares(model, run(model))}["one"]

    plain = attach(patcher(), Capture(WORDS, 7, side="positive"))
    without = attach(plain, WordWeight((1,), 0.0, 7))
    assert brings(without) == 0.0 < brings(plain)


@pytest.mark.parametrize("listener", [None, PointCapture(((0.5, 0.5),))])
def test_a_model_without_words_is_refused(listener: Any) -> None:
    model = patcher() if listener is None else attach(patcher(), listener)
    with pytest.raises(ValueError, match="put Capture Attention"):
        word_shares(model, run(model))
