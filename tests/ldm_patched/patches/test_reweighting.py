"""Word weights: the formula on the attention matrix, the rows, and the edges."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches import report
from attention_patchbay.ldm_patched.patches.attach import attach, recorder_of
from attention_patchbay.ldm_patched.patches.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.reweighting import Reweighting
from attention_patchbay.ldm_patched.patches.schedule import Schedule
from attention_patchbay.ldm_patched.patches.targets import AddressError, parse

from .models import STEPS, draw, patcher, run, unchanged

MIDDLE = parse("middle")


def test_the_attention_weights_of_the_words_are_scaled_after_the_softmax() -> None:
    """The whole run, against a foreign replace that scales the columns of the matrix in float64."""

    def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        out = torch.zeros_like(q, dtype=torch.float64)
        sides = options["cond_or_uncond"]
        for b in range(len(q)):
            for h in range(4):
                part = slice(h * 16, h * 16 + 16)
                matrix = (q[b, :, part].double() @ k[b, :, part].double().T / 4.0).softmax(-1)
                if sides[b * len(sides) // len(q)] == 0:
                    matrix[:, [1, 4]] *= 1.0 + (3.0 - 1.0) * 0.5
                out[b, :, part] = matrix @ v[b, :, part].double()
        return out.to(q.dtype)

    plain = patcher()
    plain.set_model_attn2_replace(by_hand, "middle", 0)
    expected = run(plain)
    out = run(attach(patcher(), Reweighting((1, 4), 3.0, 0.5, MIDDLE)))
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (out - run(patcher())).abs().max() > 1e-3 * expected.abs().max()


def test_neutral_settings_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        for neutral in (Reweighting((1,), 1.0), Reweighting((1,), 0.0, 0.0)):
            assert torch.equal(run(attach(model, neutral)), base)
        assert torch.equal(run(attach(model, Reweighting((1,), 0.0, schedule=Schedule(0.5, 0.5)))), base)
        muted = attach(model, Reweighting((1, 2), 0.0, address=MIDDLE))
        changed = run(muted)
    assert not torch.equal(changed, base) and torch.equal(run(model), base)
    assert f"words 1, 2 times 0 on middle: ran {STEPS} times in 1 of 1 blocks" in report.text(recorder_of(muted))


def test_factors_multiply_and_order_does_not_matter_beside_another_prompt() -> None:
    twice = attach(attach(patcher(), Reweighting((3,), 2.0)), Reweighting((3,), 2.0))
    once = attach(patcher(), Reweighting((3,), 4.0))
    assert torch.allclose(run(twice), run(once), rtol=1e-4, atol=1e-3)
    other = NormalizedGuidance(draw(9, 1, 5, 16))
    words = Reweighting((3,), 0.5)
    first, second = (run(attach(attach(patcher(), a), b)) for a, b in ((other, words), (words, other)))
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-3)


def test_it_is_a_value_and_wrong_settings_are_refused() -> None:
    method = Reweighting((1, 2), 0.5, 0.5, MIDDLE)
    assert pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(ValueError, match="weight is nan"):
        Reweighting((1,), math.nan)
    with pytest.raises(ValueError, match="strength is 2"):
        Reweighting((1,), 0.5, 2.0)
    with pytest.raises(AddressError, match="this is for cross-attention"):
        Reweighting((1,), 0.5, address=parse("self"))
    with pytest.raises(ValueError, match="the prompt has 7 tokens; give this node the very prompt"):
        run(attach(patcher(), Reweighting((50,), 0.5)))
