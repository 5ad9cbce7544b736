"""Normalized attention guidance: the formula, which rows it takes, and how it composes."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.prompts import MorePrompts, attend_to, prompt_tokens, take_off
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import Layer, Stack
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance, normalized
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.plan import Entry

from .models import BLOCKS, STEPS, conditioning, draw, last_run, patcher, run, unchanged

MIDDLE = parse("middle")
OTHER = draw(9, 1, 5, 16)


HERE = BlockId("middle", 0)


def by_hand(positive: torch.Tensor, negative: torch.Tensor, scale: float, tau: float, alpha: float) -> torch.Tensor:
    out = torch.empty_like(positive, dtype=torch.float64)
    for b in range(positive.shape[0]):
        for n in range(positive.shape[1]):
            z, other = positive[b, n].double(), negative[b, n].double()
            pushed = z + (scale - 1) * (z - other)
            ratio = sum(abs(x) for x in pushed.tolist()) / sum(abs(x) for x in z.tolist())
            if ratio > tau:
                pushed = pushed * tau / ratio
            out[b, n] = alpha * pushed + (1 - alpha) * z
    return out


@pytest.mark.parametrize(
    ("scale", "tau", "alpha"), [(5.0, 2.5, 0.5), (5.0, 100.0, 1.0), (0.0, 1.0, 0.3), (-2.0, 0.5, 1)]
)
def test_the_maths_is_that_of_the_paper(scale: float, tau: float, alpha: float) -> None:
    positive, negative = draw(0, 2, 6, 8), draw(1, 2, 6, 8)
    out = normalized(positive, negative, scale, tau, alpha)
    assert (out - by_hand(positive, negative, scale, tau, alpha)).abs().max() < 1e-5


def test_only_rows_of_the_positive_prompt_are_guided() -> None:
    gate = Gate(Entry("x"), frozenset({HERE}), strength=0.5)
    options: dict[str, Any] = {"block": HERE[:2], "block_index": 0, "cond_or_uncond": [1, 0, 0], "n_heads": 1}
    context = draw(3, 6, 7, 16)
    _, longer, _ = MorePrompts(gate, (OTHER,))(draw(4, 6, 9, 16), context, None, options)
    assert longer.shape == (6, 12, 16) and options["patchbay_context"] == 7

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, now: Any = None) -> torch.Tensor:
        return q * k.mean(1, keepdim=True) + v.sum(1, keepdim=True)

    q = draw(5, 6, 9, 16)
    out = Stack("attn2", (Layer(gate, NormalizedGuidance(OTHER, 4.0).attend),), attention)(q, longer, longer, options)
    positive, negative = attention(q, context, context), attention(q, OTHER, OTHER)
    assert torch.equal(out[:2], positive[:2])
    expected = by_hand(positive[2:], negative[2:], 4.0, 2.5, 0.5)
    assert (out[2:] - expected).abs().max() < 1e-4


def test_the_prompt_as_its_own_negative_changes_nothing() -> None:
    base = run(patcher())
    own = NormalizedGuidance(prompt_tokens(conditioning(1)), 5.0, 2.5, 1.0)
    assert (run(attach(patcher(), own)) - base).abs().max() < 1e-5 * base.abs().max()


def test_neutral_settings_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        for neutral in (NormalizedGuidance(OTHER, strength=0.0), NormalizedGuidance(OTHER, scale=1.0)):
            assert torch.equal(run(attach(model, neutral)), base)
        assert torch.equal(
            run(attach(model, NormalizedGuidance(OTHER, where=Where(schedule=Schedule(0.5, 0.5))))), base
        )
        guided = attach(model, NormalizedGuidance(OTHER))
        changed = run(guided)
    assert not torch.equal(changed, base) and torch.equal(run(model), base)
    assert f"ran {STEPS * len(BLOCKS)} times in {len(BLOCKS)} of {len(BLOCKS)} blocks" in report.text(last_run(guided))
    halved = NormalizedGuidance(OTHER, strength=1.0, where=Where(schedule=Schedule(curve="0:0.5, 1:0.5")))
    assert torch.allclose(run(attach(model, halved)), changed, rtol=1e-4, atol=1e-3)


def test_two_guidances_nest_like_brackets() -> None:
    """The second one pushes the result of the first, whose prompt stays behind the second's own negative."""
    first, second = draw(6, 1, 3, 16), draw(7, 1, 4, 16)
    gates = [Gate(Entry(name), frozenset({HERE}), strength=0.6) for name in "ab"]
    options: dict[str, Any] = {"block": HERE[:2], "block_index": 0, "cond_or_uncond": [0], "n_heads": 1}
    context = draw(3, 2, 7, 16)
    longer = context
    for gate, tokens in zip(gates, (first, second), strict=True):
        _, longer, _ = MorePrompts(gate, (tokens,))(longer, longer, None, options)
    q = draw(5, 2, 9, 16)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, now: Any = None) -> torch.Tensor:
        return (q @ k.transpose(1, 2)).softmax(-1) @ v

    methods = [NormalizedGuidance(tokens, 3.0, 9.0) for tokens in (first, second)]
    layers = tuple(Layer(gate, method.attend) for gate, method in zip(gates, methods, strict=True))
    out = Stack("attn2", layers, attention)(q, longer, longer, options)

    def guided(base: torch.Tensor) -> torch.Tensor:
        return by_hand(attention(q, base, base), attention(q, first, first), 3.0, 9.0, 0.6)

    expected = by_hand(guided(context), guided(second.expand(2, -1, -1)), 3.0, 9.0, 0.6)
    assert (out - expected).abs().max() < 1e-4


def test_it_composes_with_a_patch_and_itself_in_a_run() -> None:
    model = attach(patcher(), AttentionPatch("attn2.v", "scale", 0.5, where=Where(MIDDLE)))
    once = attach(model, NormalizedGuidance(OTHER, where=Where(MIDDLE)))
    twice = attach(once, NormalizedGuidance(draw(8, 1, 3, 16), where=Where(MIDDLE)))
    results = [run(each) for each in (model, once, twice)]
    assert all(torch.isfinite(result).all() for result in results)
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])
    assert "never ran" not in report.text(last_run(twice))


def test_the_rows_of_a_side() -> None:
    assert Site({"cond_or_uncond": [1, 0]}, batch=4).rows(0) == [slice(2, 4)]
    assert Site({"cond_or_uncond": [1, 0]}, batch=4).rows(1) == [slice(0, 2)]
    assert Site({}, batch=3).rows(0) == [slice(0, 3)]


def test_prompts_are_put_behind_and_taken_off() -> None:
    x = draw(0, 2, 2, 9, 4)
    base, (a, b) = take_off(x, [draw(1, 1, 2, 8), draw(2, 1, 3, 8)], Site({}))
    assert torch.equal(torch.cat([base, a, b], 2), x) and base.shape[2] == 4
    seen: list[Any] = []

    def inner(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: Any = None, /) -> torch.Tensor:
        seen.extend((k, v, site))
        return q

    here = Site({"sigmas": 1}, length=4)
    attend_to(inner, x, x, x, (b, a), here)
    keys, values, site = seen
    assert torch.equal(keys, torch.cat([b, a, b], 2)) and torch.equal(values, torch.cat([a, a, b], 2))
    assert site == here.but(length=3, swapped=True)
    with pytest.raises(ValueError, match="2 prompts"):
        prompt_tokens([*conditioning(1), *conditioning(2)])


def test_it_is_a_value_and_wrong_settings_are_refused() -> None:
    method = NormalizedGuidance(OTHER, 4.0, where=Where(MIDDLE))
    copy = pickle.loads(pickle.dumps(method))
    assert copy.name == method.name and torch.equal(copy.negative, OTHER)
    for wrong, reason in (({"scale": math.nan}, "scale"), ({"tau": 0.0}, "tau"), ({"strength": 2.0}, "strength")):
        with pytest.raises(ValueError, match=f"{reason} is"):
            NormalizedGuidance(OTHER, **wrong)
    with pytest.raises(AddressError, match="this is for cross-attention"):
        NormalizedGuidance(OTHER, where=Where(parse("middle self")))
