"""Chunks of queries and keys give what the whole softmax gives."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules import sub_quadratic_attention
from attention_patchbay.ldm_patched.ldm.modules.backends import slices
from attention_patchbay.ldm_patched.ldm.modules.sub_quadratic_attention import (
    chunk_sizes,
    efficient_dot_product_attention,
)


def formula(query, key_t, value, mask=None, scale=None):
    scores = query.double() @ key_t.double() * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask.double()
    return torch.nan_to_num(scores.softmax(-1), 0.0) @ value.double()


@pytest.fixture
def call():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(6, n, 40, generator=generator) for n in (50, 67, 67))
    mask = torch.rand(6, 50, 67, generator=generator) > 0.3
    mask[:, 3] = False
    mask[:, 4, :40] = False  # no key in the first chunks
    return query, key.transpose(1, 2), value, mask


@pytest.mark.parametrize("queries", [1, 7, 50, 64])
@pytest.mark.parametrize("keys", [1, 16, 66, 67, 100])
def test_chunks_match_the_formula(call, queries, keys):
    query, key_t, value, mask = call
    out = efficient_dot_product_attention(query, key_t, value, queries, keys)
    assert (out.double() - formula(query, key_t, value)).abs().max() < 1e-5
    bias = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)).masked_fill(~mask, -torch.inf)
    for given in (mask, bias, mask[:1], mask[:, :1], mask[:, 4:5], mask[0]):
        out = efficient_dot_product_attention(query, key_t, value, queries, keys, mask=given, scale=0.2)
        assert (out.double() - formula(query, key_t, value, given, 0.2)).abs().max() < 1e-5


def test_the_least_number_of_keys_wins_over_a_small_chunk(call, monkeypatch):
    query, key_t, value, _ = call
    seen = []
    scores = sub_quadratic_attention.masked_scores
    monkeypatch.setattr(
        sub_quadratic_attention, "masked_scores", lambda q, k, *rest: seen.append(k.shape[-2]) or scores(q, k, *rest)
    )
    efficient_dot_product_attention(query, key_t, value, 50, kv_chunk_size=4, kv_chunk_size_min=30)
    assert seen == [30, 30, 7]


def test_upcast_computes_half_inputs_in_float32(call):
    query, key_t, value, _ = (t.half() for t in call)
    out = efficient_dot_product_attention(query * 150, key_t * 150, value, 16, 16, upcast_attention=True)
    assert out.dtype == torch.float16
    assert (out.double() - formula(query * 150, key_t * 150, value)).abs().max() < 4e-3


@pytest.mark.parametrize("keys", [16, 67])
def test_recomputed_gradients_match_the_formula(call, keys):
    query, key_t, value, mask = call
    mask[:, 3] = True
    leaves = [t.clone().requires_grad_() for t in (query, key_t, value)]
    exact = [t.double().requires_grad_() for t in (query, key_t, value)]
    efficient_dot_product_attention(*leaves, 16, keys, use_checkpoint=True, mask=mask).square().sum().backward()
    formula(*exact, mask).square().sum().backward()
    for leaf, other in zip(leaves, exact, strict=True):
        assert (leaf.grad.double() - other.grad).abs().max() < 1e-4


@pytest.mark.parametrize("mebibytes", [0, 2, 24, 512])
def test_chunks_fit_the_budget(monkeypatch, mebibytes):
    monkeypatch.setattr(sub_quadratic_attention, "memory_budget", lambda device: mebibytes * 2**20)
    query = torch.empty(8, 16384, 40, device="meta")
    queries, keys = chunk_sizes(query, 16384, torch.float32)
    least = sub_quadratic_attention.MIN_KEY_CHUNK
    assert keys == least or queries * 8 * keys * 4 * slices.COPIES <= mebibytes * 2**20
    assert (keys >= 16384) == (mebibytes >= 48)


def test_streaming_over_keys_halves_the_queries_when_memory_runs_out(call, monkeypatch):
    query, key_t, value, _ = call
    tried = []
    scores = sub_quadratic_attention.masked_scores

    def scarce(q, *rest):
        tried.append(q.shape[-2])
        if q.shape[-2] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return scores(q, *rest)

    monkeypatch.setattr(sub_quadratic_attention, "masked_scores", scarce)
    out = efficient_dot_product_attention(query, key_t, value, 50, 40)
    assert (out.double() - formula(query, key_t, value)).abs().max() < 1e-5
    assert tried == [50, 25] + [12, 12] * 4 + [2, 2]
