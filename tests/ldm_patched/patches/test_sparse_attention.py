"""Sparse cross-attention: the weights against bisection, the result against the formula."""

from __future__ import annotations

import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.prompts import MorePrompts
from attention_patchbay.ldm_patched.patches.engine.scores import sliced_scores
from attention_patchbay.ldm_patched.patches.engine.stack import LAYERS, Layer, Stack, merged, split
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.entmax import entmax15, sparsemax
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.sparse_attention import SparseAttention, sparse_change
from attention_patchbay.ldm_patched.patches.record.plan import Entry
from hypothesis import given
from hypothesis import strategies as st

from .models import draw, patcher, run, unchanged
from .test_normalized_guidance import by_hand

MIDDLE = parse("middle")


def bisected(scores: torch.Tensor, alpha: float) -> torch.Tensor:
    """Find tau with sum_i max((alpha - 1) z_i - tau, 0)^(1 / (alpha - 1)) = 1 for one row in float64."""
    z = (alpha - 1.0) * scores.double()
    low, high = z.max() - 1.0, z.max()
    for _ in range(200):
        tau = (low + high) / 2
        total = (z - tau).clamp(min=0).pow(1.0 / (alpha - 1.0)).sum()
        low, high = (tau, high) if total > 1.0 else (low, tau)
    return (z - tau).clamp(min=0).pow(1.0 / (alpha - 1.0))


@given(st.integers(1, 12), st.integers(0, 1000), st.floats(0.01, 30.0))
def test_the_sparse_weights_are_those_of_bisection(size: int, seed: int, spread: float) -> None:
    scores = draw(seed, 3, size).double() * spread
    for row, sparse, half in zip(scores, sparsemax(scores), entmax15(scores), strict=True):
        assert (sparse - bisected(row, 2.0)).abs().max() < 1e-9
        assert (half - bisected(row, 1.5)).abs().max() < 1e-9


def test_equal_scores_share_the_weight_and_a_large_one_takes_it() -> None:
    for form in (sparsemax, entmax15):
        assert torch.allclose(form(torch.zeros(2, 4)), torch.full((2, 4), 0.25))
        assert torch.equal(form(torch.tensor([[9.0, 0.0, 1.0]])), torch.tensor([[1.0, 0.0, 0.0]]))


def test_scores_of_any_size_have_weights_and_nan_stays_nan() -> None:
    for form in (sparsemax, entmax15):
        assert torch.equal(form(torch.tensor([[1e9, 1.0, 2.0]])), torch.tensor([[1.0, 0.0, 0.0]]))
        weights = form(torch.tensor([[math.nan, 1.0, 2.0], [0.0, 0.0, 0.0]]))
        assert weights[0].isnan().all() and torch.allclose(weights[1], torch.tensor(1 / 3))


def sparse(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, form: str) -> torch.Tensor:
    """Attend with weights by bisection in float64; `softmax` is the dense form."""
    alpha = {"entmax": 1.5, "sparsemax": 2.0}
    out = torch.empty(*q.shape[:2], v.shape[2], dtype=torch.float64)
    dim = q.shape[2] // heads
    for b in range(q.shape[0]):
        for h in range(heads):
            part = slice(dim * h, dim * h + dim)
            scores = q[b, :, part].double() @ k[b, :, part].double().T / math.sqrt(dim)
            weights = [row.softmax(-1) if form == "softmax" else bisected(row, alpha[form]) for row in scores]
            out[b, :, part] = torch.stack(weights) @ v[b, :, part].double()
    return out


@pytest.mark.parametrize("form", ["entmax", "sparsemax"])
def test_the_change_is_the_formula_in_any_slices(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(0, 2, 9, 12), draw(1, 2, 5, 12), draw(2, 2, 5, 12)
    expected = sparse(q, k, v, 3, form) - sparse(q, k, v, 3, "softmax")
    given = [split(x, 3) for x in (q, k, v)]
    assert (merged(sparse_change(*given, form)) - expected).abs().max() < 1e-5
    one_row = partial(sliced_scores, most=1)
    monkeypatch.setattr("attention_patchbay.ldm_patched.patches.methods.sparse_attention.sliced_scores", one_row)
    assert (merged(sparse_change(*given, form)) - expected).abs().max() < 1e-5


def test_the_layer_extrapolates_from_dense_to_sparse() -> None:
    seen: list[tuple] = []

    def watch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict) -> torch.Tensor:
        dense = torch.nn.functional.scaled_dot_product_attention(
            *(x.unflatten(-1, (4, -1)).transpose(1, 2) for x in (q, k, v))
        )
        dense = dense.transpose(1, 2).flatten(2)
        seen.append((q, k, v, dense))
        return dense

    model = patcher()
    model.set_model_attn2_replace(watch, "middle", 0)
    outs: list[torch.Tensor] = []
    half = Schedule(curve="0:0.5, 1:0.5")
    patched = attach(model, SparseAttention(3.0, "sparsemax", Where(MIDDLE, half)))
    layers = patched.model_options["transformer_options"][LAYERS]["attn2"]["middle", 0, 0]
    stack = Stack("attn2", layers, watch)
    patched.set_model_attn2_output_patch(lambda n, options: outs.append(n) or n)
    run(patched, steps=1)
    q, k, v, dense = seen[0]
    options = {"n_heads": 4, "block": ("middle", 0), "block_index": 0}
    out = stack(q, k, v, options)
    expected = dense + 0.5 * 3.0 * (sparse(q, k, v, 4, "sparsemax") - dense)
    assert (out - expected).abs().max() < 1e-4


@pytest.mark.parametrize("sparse_first", [True, False])
def test_beside_normalized_guidance_both_keep_their_effect_in_either_order(sparse_first: bool) -> None:
    here = BlockId("middle", 0)
    options: dict[str, Any] = {"block": here[:2], "block_index": 0, "cond_or_uncond": [0], "n_heads": 2}
    context, other, q = draw(3, 2, 7, 16), draw(9, 1, 5, 16), draw(5, 2, 9, 16)
    gate, guidance = Gate(Entry("x"), frozenset({here})), Gate(Entry("y"), frozenset({here}), strength=0.6)
    _, longer, _ = MorePrompts(gate, (other,))(q, context, None, options)
    layers = [Layer(gate, SparseAttention(2.0).attend), Layer(guidance, NormalizedGuidance(other, 3.0, 9.0).attend)]

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, now: Any = None) -> torch.Tensor:
        return sparse(q, k, v, 2, "softmax").float()

    def extrapolated(prompt: torch.Tensor, scale: float) -> torch.Tensor:
        dense = sparse(q, prompt, prompt, 2, "softmax")
        return dense + scale * (sparse(q, prompt, prompt, 2, "entmax") - dense)

    stack = Stack("attn2", tuple(layers if sparse_first else layers[::-1]), attention)
    out, more = stack(q, longer, longer, options), other.expand(2, -1, -1)
    if sparse_first:
        expected = by_hand(extrapolated(context, 2.0), extrapolated(more, 2.0), 3.0, 9.0, 0.6)
    else:
        pushed = by_hand(extrapolated(context, 0.0), extrapolated(more, 0.0), 3.0, 9.0, 0.6)
        expected = pushed + extrapolated(context, 2.0) - extrapolated(context, 0.0)
    assert (out - expected).abs().max() < 1e-4


def test_scale_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        assert torch.equal(run(attach(model, SparseAttention(0.0))), base)
        changed = run(attach(model, SparseAttention(2.0)))
    assert not torch.equal(changed, base) and torch.equal(run(model), base)
    window = run(attach(model, SparseAttention(2.0, where=Where(schedule=Schedule(0.5, 0.5)))))
    assert torch.equal(window, base)


def test_it_composes_with_a_patch_of_the_same_attention() -> None:
    flat = AttentionPatch(
        "attn2.k", "zero", where=Where(MIDDLE)
    )  # all scores are 0: sparse and dense weights are equal
    both = run(attach(attach(patcher(), flat), SparseAttention(2.0, where=Where(MIDDLE))))
    base = run(attach(patcher(), flat))
    assert (both - base).abs().max() < 1e-5 * base.abs().max()


def test_it_is_a_value_and_wrong_settings_are_refused() -> None:
    method = SparseAttention(1.5, "sparsemax", Where(MIDDLE, Schedule(0.1, 0.9)))
    assert pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(ValueError, match="scale is inf"):
        SparseAttention(math.inf)
    with pytest.raises(ValueError, match="choose one of entmax, sparsemax"):
        SparseAttention(1.0, "softmax")
    with pytest.raises(AddressError, match="this is for cross-attention"):
        SparseAttention(1.0, where=Where(parse("middle self")))
