"""Sharing the first picture of a batch: the paper's formula row by row, both orders of the sides, composition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned, normalised
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers
from hypothesis import given, settings
from hypothesis import strategies as st

from .layers import layers, options, plain
from .models import STEPS, conditioning, draw, last_run, patcher, unchanged

MIDDLE = parse("middle")


def run(model: Any, rows: int = 3, cfg: float = 4.0) -> torch.Tensor:
    noise = draw(0, rows, 4, 8, 8)
    return samplers.sample(model, noise, conditioning(1), conditioning(2), cfg, STEPS, "euler", "normal", 1.0, seed=0)


def adain(x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """Normalise the tokens (n, c) of one row channel by channel, in float64."""
    out = x.double().clone()
    for c in range(x.shape[1]):
        own, wanted = x[:, c].double(), style[:, c].double()
        deviation = math.sqrt(own.var().item() + 1e-5)
        out[:, c] = (own - own.mean()) / deviation * math.sqrt(wanted.var().item() + 1e-5) + wanted.mean()
    return out


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, size: int, with_adain: bool) -> torch.Tensor:
    rows = []
    for row in range(len(q)):
        first = row // size * size
        own_q, own_k = q[row], k[row]
        if with_adain:
            own_q, own_k = adain(own_q, q[first]), adain(own_k, k[first])
        keys, values = torch.cat([own_k, k[first]]), torch.cat([v[row], v[first]])
        rows.append(plain(own_q[None], keys[None], values[None])[0])
    return torch.stack(rows)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(2, 4), st.booleans(), st.sampled_from([0.3, 1.0]))
def test_it_is_the_formula(sides: int, size: int, with_adain: bool, strength: float) -> None:
    q, k, v = (draw(i, sides * size, 9, 16) * (1 + i) + i for i in range(3))
    out = layers(StyleAligned(with_adain, strength))(q, k, v, options(3, 3, sides * size, cond_or_uncond=[0] * sides))
    expected = (1 - strength) * plain(q, k, v) + strength * by_hand(q, k, v, size, with_adain)
    assert (out - expected).abs().max() < 1e-4
    for first in range(0, sides * size, size):
        assert (out[first] - plain(q, k, v)[first]).abs().max() < 1e-4


def test_normalising_keeps_what_has_the_style_and_a_small_dtype() -> None:
    x = draw(0, 2, 50, 8)
    assert torch.allclose(normalised(x, x), x, atol=1e-6)
    assert normalised(x.bfloat16(), x.bfloat16()).dtype == torch.bfloat16


def test_one_token_takes_the_style_s_own() -> None:
    """A small picture under Deep Shrink has one token in the middle: a single number has no deviation."""
    x, style = draw(0, 2, 4, 1, 8), draw(1, 2, 4, 1, 8)
    assert torch.allclose(normalised(x, style), style, atol=1e-6)


def test_each_side_follows_its_own_first_row_in_any_order_of_the_calls() -> None:
    q, k, v = (draw(i, 6, 9, 16) for i in range(3))

    def call(rows: slice, sides: list[int]) -> torch.Tensor:
        return layers(StyleAligned())(q[rows], k[rows], v[rows], options(3, 3, len(q[rows]), cond_or_uncond=sides))

    both = call(slice(0, 6), [1, 0])
    assert torch.allclose(both, torch.cat([call(slice(0, 3), [1]), call(slice(3, 6), [0])]))
    assert not torch.allclose(both, call(slice(0, 6), [0]))


def test_the_first_picture_stays_and_the_others_change() -> None:
    base, out = run(patcher()), run(attach(patcher(), StyleAligned()))
    scale = float(base.abs().max())
    assert (out[0] - base[0]).abs().max() < 1e-4 * scale
    assert all((out[i] - base[i]).abs().max() > 1e-2 * scale for i in (1, 2))
    alone = run(attach(patcher(), StyleAligned()), rows=1)
    assert torch.equal(alone, run(patcher(), rows=1))


def test_strength_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        shared = attach(model, StyleAligned())
        changed = run(shared)
        assert torch.equal(run(attach(model, StyleAligned(strength=0.0))), base)
    assert torch.equal(run(model), base)
    assert torch.equal(run(shared), changed) and torch.equal(run(shared.clone()), changed)


def test_window_and_curve() -> None:
    never = attach(patcher(), StyleAligned(where=Where(schedule=Schedule(0.0, 0.0))))
    assert torch.equal(run(never), run(patcher()))
    by_curve = run(attach(patcher(), StyleAligned(where=Where(schedule=Schedule(curve="0:0.5, 1:0.5")))))
    assert torch.allclose(by_curve, run(attach(patcher(), StyleAligned(strength=0.5))))
    half = attach(patcher(), StyleAligned(where=Where(MIDDLE, Schedule(0.0, 0.5))))
    run(half)
    assert f"style aligned on middle 0-50%: ran {STEPS // 2} times" in report.text(last_run(half))


def test_composed_with_an_identity_the_outer_one_decides() -> None:
    style, identity = StyleAligned(), AttentionPatch("attn1.out", "identity", strength=0.5)
    q, k, v = (draw(i, 3, 9, 16) for i in range(3))
    here = options(3, 3, 3, cond_or_uncond=[0])
    expected = 0.5 * by_hand(q, k, v, 3, True) + 0.5 * v.double()
    assert (layers(style, identity)(q, k, v, here) - expected).abs().max() < 1e-4
    with pytest.raises(ValueError, match=r"needs one value for each query.*\(3, 18\) values; take this block out"):
        layers(identity, style)(q, k, v, here)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="strength is nan"):
        StyleAligned(strength=math.nan)
    with pytest.raises(ValueError, match="says cross, but this is for self-attention"):
        StyleAligned(where=Where(parse("middle cross")))
