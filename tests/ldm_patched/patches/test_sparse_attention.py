"""Sparse cross-attention: the weights against bisection, the result against the formula."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from attention_patchbay.ldm_patched.patches.attach import attach
from attention_patchbay.ldm_patched.patches.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.entmax import entmax15, sparsemax
from attention_patchbay.ldm_patched.patches.schedule import Schedule
from attention_patchbay.ldm_patched.patches.sparse_attention import SparseAttention, sparse_attention
from attention_patchbay.ldm_patched.patches.targets import AddressError, parse
from hypothesis import given
from hypothesis import strategies as st

from .models import draw, patcher, run, unchanged

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


@pytest.mark.parametrize("form", ["entmax", "sparsemax"])
def test_the_attention_is_the_formula_in_any_slices(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = draw(0, 2, 9, 12), draw(1, 2, 5, 12), draw(2, 2, 5, 12)
    expected = torch.empty(2, 9, 12, dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            part = slice(4 * h, 4 * h + 4)
            scores = q[b, :, part].double() @ k[b, :, part].double().T / math.sqrt(4)
            weights = torch.stack([bisected(row, 1.5 if form == "entmax" else 2.0) for row in scores])
            expected[b, :, part] = weights @ v[b, :, part].double()
    assert (sparse_attention(q, k, v, 3, form) - expected).abs().max() < 1e-5
    monkeypatch.setattr("attention_patchbay.ldm_patched.patches.sparse_attention.SCORES", 1)
    assert (sparse_attention(q, k, v, 3, form) - expected).abs().max() < 1e-5


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
    patched = attach(model, SparseAttention(3.0, "sparsemax", MIDDLE, half))
    stack = patched.model_options["transformer_options"]["patches_replace"]["attn2"]["middle", 0, 0]
    patched.set_model_attn2_output_patch(lambda n, options: outs.append(n) or n)
    run(patched, steps=1)
    q, k, v, dense = seen[0]
    options = {"n_heads": 4, "block": ("middle", 0), "block_index": 0}
    out = stack(q, k, v, options)
    sparse = sparse_attention(q, k, v, 4, "sparsemax")
    assert torch.allclose(out, dense + 0.5 * 3.0 * (sparse - dense), atol=1e-5)


def test_scale_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        assert torch.equal(run(attach(model, SparseAttention(0.0))), base)
        changed = run(attach(model, SparseAttention(2.0)))
    assert not torch.equal(changed, base) and torch.equal(run(model), base)
    window = run(attach(model, SparseAttention(2.0, schedule=Schedule(0.5, 0.5))))
    assert torch.equal(window, base)


def test_it_composes_with_a_patch_of_the_same_attention() -> None:
    flat = AttentionPatch("attn2.k", "zero", address=MIDDLE)  # all scores are 0: sparse and dense weights are equal
    both = run(attach(attach(patcher(), flat), SparseAttention(2.0, address=MIDDLE)))
    base = run(attach(patcher(), flat))
    assert (both - base).abs().max() < 1e-5 * base.abs().max()


def test_it_is_a_value_and_wrong_settings_are_refused() -> None:
    method = SparseAttention(1.5, "sparsemax", MIDDLE, Schedule(0.1, 0.9))
    assert pickle.loads(pickle.dumps(method)) == method
    with pytest.raises(ValueError, match="scale is inf"):
        SparseAttention(math.inf)
    with pytest.raises(ValueError, match="choose one of entmax, sparsemax"):
        SparseAttention(1.0, "softmax")
    with pytest.raises(AddressError, match="this is for cross-attention"):
        SparseAttention(1.0, address=parse("middle self"))
