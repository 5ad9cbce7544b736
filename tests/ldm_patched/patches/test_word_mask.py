"""Words within a mask: the softmax without them, the limits, and how it composes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.prompts import columns, context_positions
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import CONTEXT
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.plan import KEY, Entry
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.sampling import samplers
from hypothesis import given
from hypothesis import strategies as st

from .models import STEPS, conditioning, draw, last_run, patcher, run, unchanged

MIDDLE = parse("middle")
SOFT = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1))
LEFT = torch.cat([torch.ones(1, 16, 8), torch.zeros(1, 16, 8)], 2)


def masked_run(masks: list[tuple[list[int], torch.Tensor, float]]) -> torch.Tensor:
    """Run with a foreign replace that hides columns by -inf, in float64; several masks are applied in turn."""

    def weigh(scores: torch.Tensor, v: torch.Tensor, hidden: set[int], left: list) -> torch.Tensor:
        if not left:
            scores = scores.clone()
            scores[:, sorted(hidden)] = -torch.inf
            return scores.softmax(-1) @ v
        *inner, (words, mask, strength) = left
        grid = mask.reshape(4, 4, 4, 4).mean(dim=(1, 3)).flatten().double()[:, None]
        seen, unseen = weigh(scores, v, hidden, inner), weigh(scores, v, hidden | set(words), inner)
        return seen + strength * (1 - grid) * (unseen - seen)

    def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        out = torch.zeros_like(q, dtype=torch.float64)
        for row, side in enumerate(options["cond_or_uncond"]):
            for h in range(4):
                part = slice(h * 16, h * 16 + 16)
                scores = q[row, :, part].double() @ k[row, :, part].double().T / 4.0
                out[row, :, part] = weigh(scores, v[row, :, part].double(), set(), masks if side == 0 else [])
        return out.to(q.dtype)

    plain = patcher()
    plain.set_model_attn2_replace(by_hand, "middle", 0)
    return run(plain)


def test_outside_the_mask_the_softmax_lacks_the_words() -> None:
    expected = masked_run([([1, 4], SOFT, 0.8)])
    out = run(attach(patcher(), WordMask((1, 4), SOFT, 7, 0.8, Where(MIDDLE))))
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (out - run(patcher())).abs().max() > 1e-3 * expected.abs().max()


def test_two_masks_count_the_words_of_both() -> None:
    expected = masked_run([([1, 4], SOFT, 1.0), ([0, 4, 5], LEFT, 1.0)])
    first = attach(patcher(), WordMask((1, 4), SOFT, 7, where=Where(MIDDLE)))
    out = run(attach(first, WordMask((0, 4, 5), LEFT, 7, where=Where(MIDDLE))))
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()


def test_neutral_settings_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        for neutral in (WordMask((1,), torch.ones(1, 4, 4), 7), WordMask((1,), LEFT, 7, 0.0), WordMask((), LEFT, 7)):
            assert torch.equal(run(attach(model, neutral)), base)
        assert torch.equal(run(attach(model, WordMask((1,), LEFT, 7, where=Where(schedule=Schedule(0.5, 0.5))))), base)
        masked = attach(model, WordMask((1, 2), LEFT, 7, where=Where(MIDDLE)))
        changed = run(masked)
    assert not torch.equal(changed, base) and torch.equal(run(model), base)
    assert f"words 1, 2 within a mask on middle: ran {STEPS} times in 1 of 1 blocks" in report.text(last_run(masked))


def test_it_stands_inside_and_outside_of_other_prompts() -> None:
    """A region everywhere hides the sampler's prompt, and with it the words; a negative prompt keeps its own words."""
    tokens = draw(9, 1, 5, 16)
    everywhere, words = RegionalPrompt((Region(tokens, torch.ones(1, 8, 8)),)), WordMask((1,), LEFT, 7)
    inside = run(attach(attach(patcher(), words), everywhere))
    assert torch.allclose(inside, run(attach(patcher(), everywhere)), rtol=1e-4, atol=1e-3)
    for order in ((words, NormalizedGuidance(tokens)), (NormalizedGuidance(tokens), words)):
        model = attach(attach(patcher(), order[0]), order[1])
        assert torch.isfinite(run(model)).all()
        assert "never ran" not in report.text(last_run(model))


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_columns_are_those_of_the_places(size: int, positions: set[int], hidden: set[int]) -> None:
    positions, hidden = ({place for place in some if place < size} for some in (positions, hidden))
    left = [place for place in range(size) if place not in hidden]
    found = columns(sorted(positions), Site({}, left_out=frozenset(hidden)))
    assert [left[column] for column in found] == sorted(positions - hidden)


def test_a_prompt_that_the_host_repeats_loses_the_words_in_every_repeat() -> None:
    context = draw(1, 1, 5, 4).repeat(1, 3, 1)
    assert context_positions((1, 3), 5, draw(0, 1, 1, 18, 4), Site({CONTEXT: context})) == [1, 3, 6, 8, 11, 13]
    model = attach(patcher(), WordMask((1,), torch.zeros(1, 4, 4), 7))
    positive, longer = conditioning(1), [[torch.cat([conditioning(2)[0][0]] * 2, 1), {}]]
    noise = draw(0, 1, 4, 8, 8)
    settings = (4.0, 2, "euler", "normal", 1.0)
    once = samplers.sample(model, noise, positive, conditioning(2), *settings, seed=0)
    twice = samplers.sample(model, noise, positive, longer, *settings, seed=0)
    assert torch.allclose(once, twice, rtol=1e-4, atol=1e-3)


def test_another_prompt_behind_the_first_keeps_its_words() -> None:
    prompts = torch.cat([draw(seed, 1, 5, 4) for seed in (1, 1, 2)], dim=1)
    context = torch.cat([draw(3, 1, 15, 4), prompts])
    gate = Gate(Entry("x"), frozenset())
    site = Site({CONTEXT: context, "cond_or_uncond": [1, 0], KEY: Run()}, gate=gate)
    assert context_positions((1, 3), 5, draw(0, 2, 1, 18, 4), site) == [1, 3, 6, 8]
    other = site.but(options={**site.options, CONTEXT: context * 0.0})
    assert context_positions((2,), 5, draw(0, 2, 1, 18, 4), other) == [2, 7]  # once a run


def test_it_is_a_value_and_wrong_settings_are_refused() -> None:
    method = WordMask((1, 2), LEFT, 7, 0.5, Where(MIDDLE))
    assert pickle.loads(pickle.dumps(method)).name == method.name
    with pytest.raises(ValueError, match="give .pictures, height, width"):
        WordMask((1,), torch.ones(4, 4))
    with pytest.raises(ValueError, match="strength is 2"):
        WordMask((1,), LEFT, 7, 2.0)
    with pytest.raises(AddressError, match="this is for cross-attention"):
        WordMask((1,), LEFT, 7, where=Where(parse("self")))
    with pytest.raises(ValueError, match="position 50 lies outside the prompt of 7 tokens"):
        WordMask((50,), LEFT, 7)
    with pytest.raises(ValueError, match="the context has 7 tokens, but the prompt given to this node has 5"):
        run(attach(patcher(), WordMask((1,), LEFT, 5)))
