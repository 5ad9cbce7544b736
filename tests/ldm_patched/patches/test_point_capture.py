"""Captured self-attention of points: the formula, that nothing changes, and other methods on the block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.stack import split
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.point_capture import (
    PointCapture,
    parse_points,
    point_weights,
    token_of,
)
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.ldm_patched.patches.reading.maps import gathered_in

from .models import BLOCKS, STEPS, draw, last_run, patcher, run

POINTS = ((0.1, 0.1), (0.9, 0.4))


def test_probabilities_are_rows_of_the_softmax() -> None:
    q, k = draw(1, 2, 10, 12), draw(2, 2, 10, 12)
    found, entropy = point_weights(*(split(x, 3) for x in (q, k)), [7, 0])
    for i, token in enumerate([7, 0]):
        for b in range(2):
            expected = torch.zeros(10, dtype=torch.float64)
            for head in range(3):
                one, other = (x[b, :, 4 * head : 4 * head + 4].double() for x in (q, k))
                expected += (one[token] @ other.T / 2.0).softmax(-1) / 3
            assert (found[i, b].double() - expected).abs().max() < 1e-6
    weights = (q[:, [7, 0], 4:8].double() @ k[:, :, 4:8].double().transpose(1, 2) / 2.0).softmax(-1)
    assert abs(float(entropy[1]) + float((weights * weights.log()).sum(-1).mean())) < 1e-6


def test_nothing_changes_and_a_map_sums_to_one() -> None:
    model = attach(patcher(), PointCapture(POINTS))
    assert torch.equal(run(model), run(patcher()))
    (found,) = gathered_in(last_run(model))
    assert found.listener.labels == ("0.1 0.1", "0.9 0.4") and {str(block) for block in found.blocks} == set(BLOCKS)
    for sums in found.blocks.values():
        assert sums.calls == STEPS and sums.attention.shape[:2] == (2, 1)
        assert torch.allclose(sums.attention.sum(-1), torch.full((2, 1), float(STEPS)), atol=1e-4)


def test_words_and_points_are_gathered_side_by_side() -> None:
    model = attach(attach(patcher(), Capture((Word("one", (1,)),), 7)), PointCapture(POINTS, Where(parse("middle"))))
    run(model)
    words, points = gathered_in(last_run(model))
    assert words.listener.labels == ("one",) and len(words.blocks) == len(BLOCKS) and len(points.blocks) == 1


@pytest.mark.parametrize(
    "method", [StyleAligned(where=Where(parse("middle"))), KeyValueDownsampling(2.0, where=Where(parse("middle")))]
)
@pytest.mark.parametrize("behind", [False, True])
def test_other_methods_on_the_block(method: Any, behind: bool) -> None:
    listener: Any = PointCapture(POINTS, Where(parse("middle")))
    order = [listener, method] if behind else [method, listener]
    model, plain = patcher(), attach(patcher(), method)
    for one in order:
        model = attach(model, one)
    assert torch.equal(run(model, steps=1), run(plain, steps=1))
    try:
        (found,) = gathered_in(last_run(model))
    except ValueError as error:
        assert "another patch left out keys" in str(error)
    else:
        (sums,) = found.blocks.values()
        assert (sums.attention >= 0.0).all() and (sums.attention.sum(-1) <= 1.0 + 1e-5).all()


def test_points_are_read() -> None:
    assert parse_points("0.3 0.5, 1 0;\n.25 .75") == ((0.3, 0.5), (1.0, 0.0), (0.25, 0.75))
    assert parse_points("") == ()
    for text in ("0.3", "a b", "0.1 0.2 0.3"):
        with pytest.raises(ValueError, match="is no point; write x and y"):
            parse_points(text)
    with pytest.raises(ValueError, match="the point 1.5 0.0 is outside the picture"):
        PointCapture(parse_points("1.5 0"))
    assert [token_of(point, (2, 4)) for point in ((0.0, 0.0), (1.0, 0.0), (0.49, 0.6), (1.0, 1.0))] == [0, 3, 5, 7]
