"""Word weights: the formula with explicit maps, rows and repeats, the schedule, composition, and the demo model."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.demo.captions import COLOURS, PLACES, SHAPES, Thing
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.stack import CONTEXT
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.tools.demo.evaluate import paint
from attention_patchbay.tools.demo.judge import look

from .maps import applied, around, attend, maps, options
from .models import BLOCKS, STEPS, draw, last_run, patcher, run, unchanged

NEGATIVE_FIRST = options(1, 0)


def qkv(tokens: int = 7) -> tuple[torch.Tensor, ...]:
    return draw(0, 4, 5, 8), draw(1, 4, tokens, 8), draw(2, 4, tokens, 8)


@pytest.mark.parametrize(("weight", "strength", "curve"), [(0.0, 1.0, 1.0), (2.5, 0.5, 1.0), (-1.0, 1.0, 0.25)])
def test_the_maps_of_the_words_are_scaled_on_the_positive_rows(weight: float, strength: float, curve: float) -> None:
    q, k, v = qkv()
    method = WordWeight((2, 5), weight, 7, strength)
    out = around(method, q, k, v, NEGATIVE_FIRST, curve)
    weights = maps(q, k)
    for row in (2, 3):  # the second half of the batch is the positive side
        for token in (2, 5):
            weights[row, :, :, token] *= 1 + (weight - 1) * strength * curve
    assert (out - applied(weights, v)).abs().max() < 1e-6


def test_a_prompt_that_the_host_repeated_is_scaled_in_every_copy() -> None:
    q, k, v = qkv(14)
    out = around(WordWeight((2,), 0.0, 7), q, k, v, NEGATIVE_FIRST)
    weights = maps(q, k)
    weights[2:, :, :, [2, 9]] = 0
    assert (out - applied(weights, v)).abs().max() < 1e-6


@pytest.mark.parametrize("longer_first", [False, True])
def test_each_of_two_combined_prompts_is_scaled_where_its_own_tokens_stand(longer_first: bool) -> None:
    """The host repeats the shorter one, of 7 tokens, to the length of the other, of 14."""
    q, k, v = qkv(14)
    short, long = draw(3, 1, 7, 8).repeat(1, 2, 1), draw(4, 1, 14, 8)
    other = draw(5, 2, 14, 8)
    context = torch.cat([other, *((long, short) if longer_first else (short, long))])
    now = {**options(1, 1, 0, 0), CONTEXT: context}
    out = around(WordWeight((2,), 0.0, 7), q, k, v, now)
    weights = maps(q, k)
    weights[3 if longer_first else 2, :, :, [2, 9]] = 0
    weights[2 if longer_first else 3, :, :, 2] = 0
    assert (out - applied(weights, v)).abs().max() < 1e-6


def test_tokens_that_another_method_appended_are_left_alone() -> None:
    q, k, v = qkv(14)
    out = around(WordWeight((2,), 0.0, 7), q, k, v, {**NEGATIVE_FIRST, CONTEXT: k[:, :7]})
    weights = maps(q, k)
    weights[2:, :, :, 2] = 0
    assert (out - applied(weights, v)).abs().max() < 1e-6


def test_a_negative_side_alone_is_left_alone() -> None:
    q, k, v = qkv()
    out = around(WordWeight((2,), 0.0, 7), q, k, v, options(1))
    assert torch.equal(out, attend(q, k, v))


def test_another_prompt_than_the_positive_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="context has 7 tokens.*has 77; give it the text and the CLIP"):
        run(attach(patcher(), WordWeight((2,))))


def test_neutral_settings_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        for neutral in (WordWeight((2,), 1.0, 7), WordWeight((2,), 0.0, 7, 0.0), WordWeight((), 0.0, 7)):
            assert torch.equal(run(attach(model, neutral)), base)
        weighted = attach(model, WordWeight((2,), 0.0, 7))
        assert not torch.equal(run(weighted), base)
    assert torch.equal(run(model), base) and torch.equal(run(weighted.clone()), run(weighted))


def test_the_window_and_the_curve() -> None:
    never = attach(patcher(), WordWeight((2,), 0.0, 7, where=Where(schedule=Schedule(0.0, 0.0))))
    assert torch.equal(run(never), run(patcher()))
    half = attach(patcher(), WordWeight((2,), 0.0, 7, where=Where(schedule=Schedule(0.0, 0.5))))
    run(half)
    assert f"ran {STEPS // 2 * len(BLOCKS)} times in {len(BLOCKS)} of" in report.text(last_run(half))
    curved = run(attach(patcher(), WordWeight((2,), 0.0, 7, where=Where(schedule=Schedule(curve="0:0.5, 1:0.5")))))
    assert torch.allclose(curved, run(attach(patcher(), WordWeight((2,), 0.5, 7))), atol=1e-5)


def test_weights_multiply_in_either_order_and_run_inside_another_patch() -> None:
    one, two = WordWeight((2, 3), 0.5, 7), WordWeight((3,), 4.0, 7)
    first, second = run(attach(attach(patcher(), one), two)), run(attach(attach(patcher(), two), one))
    by_hand = attach(attach(patcher(), WordWeight((2,), 0.5, 7)), WordWeight((3,), 2.0, 7))
    assert torch.allclose(first, second, atol=1e-5) and torch.allclose(first, run(by_hand), atol=1e-5)
    scale = AttentionPatch("attn2.out", "scale", 1.5)
    orders = [run(attach(attach(patcher(), a), b)) for a, b in ((one, scale), (scale, one))]
    assert torch.equal(*orders)


def test_it_is_a_value_that_refuses_wrong_settings() -> None:
    method = WordWeight((2, 3), 1.5, 7, 0.5, Where(parse("middle"), Schedule(0.0, 0.5)))
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.name == "word weight 1.5 of tokens 2, 3 x 0.5 on middle 0-50%"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"positions": (7,)}, "position 7 lies outside the prompt of 7 tokens"),
        ({"weight": math.nan}, "weight is nan"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"where": Where(parse("middle self"))}, "says self, but this is for cross-attention"),
    ]
    for settings, reason in wrong:
        with pytest.raises(ValueError, match=reason):
            WordWeight(**{"positions": (2,), "length": 7, **settings})


def test_a_colour_without_attention_does_not_show_and_the_place_stays() -> None:
    model, clip, vae = load_checkpoint(CHECKPOINT)
    things = [Thing(SHAPES[i % 4], COLOURS[i % 6], tuple(PLACES)[i % 5]) for i in range(10)]

    def right(patcher: Any) -> tuple[int, int]:
        pictures = paint((patcher, clip, vae), [str(thing) for thing in things], steps=8)
        seen = list(zip(things, map(look, pictures), strict=True))
        colours = sum(any(one.colour == thing.colour for one in found) for thing, found in seen)
        return colours, sum(any(one.place == thing.place for one in found) for thing, found in seen)

    with torch.inference_mode():
        colours, places = right(attach(model, WordWeight((2,), 0.0)))
        assert right(model)[0] >= 9
        assert colours <= 5 and places >= 8
