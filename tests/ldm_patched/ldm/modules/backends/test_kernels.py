"""What flash-attn, SageAttention and comfy-kitchen are called with, by stand-ins with the libraries' own signatures."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.flash import (
    attention_flash,
    attention_flash3,
    attention_flash4,
)
from attention_patchbay.ldm_patched.ldm.modules.backends.sage import (
    attention_comfy_kitchen_int8,
    attention_sage,
    attention_sage3,
)

from .conftest import float64_attention


def stand_in(monkeypatch, module: str, **functions) -> None:
    fake = types.ModuleType(module)
    fake.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, module, fake)


class Kernel:
    """Remember the last call and compute it in float64."""

    def compute(self, q, k, v, scale, mask=None):
        self.q, self.k, self.v, self.scale, self.mask = q, k, v, scale, mask
        assert q.dtype == k.dtype == v.dtype
        # Every library refuses a strided last dimension.
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        full = None if mask is None else mask.expand(*q.shape[:3], k.shape[2])
        return float64_attention(q, k, v, full, scale).to(q.dtype)


@pytest.fixture
def flash(monkeypatch):
    kernel = Kernel()

    # flash-attn 2.8, (b, n, h, d)
    def flash_attn_func(
        q,
        k,
        v,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
        return_attn_probs=False,
    ):
        assert not dropout_p and not causal and not return_attn_probs
        return kernel.compute(*(t.transpose(1, 2) for t in (q, k, v)), softmax_scale).transpose(1, 2)

    stand_in(monkeypatch, "flash_attn", flash_attn_func=flash_attn_func)
    return attention_flash, kernel


def flash3_stand_in(monkeypatch, with_sums):
    kernel = Kernel()

    # flash-attn 3, (b, n, h, d); the fourth argument is the scale
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, qv=None, num_splits=1, pack_gqa=None):
        assert not causal and qv is None
        out = kernel.compute(*(t.transpose(1, 2) for t in (q, k, v)), softmax_scale).transpose(1, 2)
        return (out, None) if with_sums else out

    stand_in(monkeypatch, "flash_attn_interface", flash_attn_func=flash_attn_func)
    return attention_flash3, kernel


@pytest.fixture
def flash3(monkeypatch):
    return flash3_stand_in(monkeypatch, with_sums=False)


@pytest.fixture
def first_flash3(monkeypatch):
    return flash3_stand_in(monkeypatch, with_sums=True)


@pytest.fixture
def flash4(monkeypatch):
    kernel = Kernel()

    # flash-attn-4 4.0.0b36, (b, n, h, d); the fourth argument is no scale
    def flash_attn_func(q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, **kwargs):
        assert not causal and qv is gather_kv_indices is None and not kwargs
        out = kernel.compute(*(t.transpose(1, 2) for t in (q, k, v)), softmax_scale).transpose(1, 2)
        return out, None

    stand_in(monkeypatch, "flash_attn.cute", flash_attn_func=flash_attn_func)
    return attention_flash4, kernel


@pytest.fixture
def sage(monkeypatch):
    kernel = Kernel()

    # SageAttention 1.0.6; version 2 has return_lse for smooth_k, and takes that as a keyword all the same.
    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, smooth_k=True, **kwargs):
        assert not is_causal and tensor_layout == "HND" and not kwargs
        assert q.shape[-1] in (64, 96, 128)
        if smooth_k:
            k -= k.mean(2, keepdim=True)
        return kernel.compute(q, k, v, sm_scale)

    stand_in(monkeypatch, "sageattention", sageattn=sageattn)
    return attention_sage, kernel


@pytest.fixture
def sage3(monkeypatch):
    kernel = Kernel()

    def sageattn3_blackwell(q, k, v, attn_mask=None, is_causal=False, per_block_mean=True, **kwargs):
        assert attn_mask is None and not is_causal and not kwargs
        assert q.is_contiguous() and k.is_contiguous() and v.is_contiguous()
        assert q.shape[1] == k.shape[1]
        return kernel.compute(q, k, v, None)

    stand_in(monkeypatch, "sageattn3", sageattn3_blackwell=sageattn3_blackwell)
    return attention_sage3, kernel


@pytest.fixture
def kitchen(monkeypatch):
    kernel = Kernel()

    def int8_attention(q, k, v, *, scale=None, attn_mask=None):
        assert attn_mask is None or torch.broadcast_to(attn_mask, (*q.shape[:3], k.shape[2])) is not None
        # Dead rows are the caller's own business here.
        return torch.nan_to_num(kernel.compute(q, k, v, scale, attn_mask), 7.0) + 1e-9

    stand_in(monkeypatch, "comfy_kitchen", int8_attention=int8_attention)
    return attention_comfy_kitchen_int8, kernel


@pytest.fixture(params=["flash", "flash3", "first_flash3", "flash4", "sage", "sage3", "kitchen"])
def wired(request):
    return request.getfixturevalue(request.param)


def inputs(dim_head=64, kv_heads=4, dtype=torch.float16):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 33, dim_head), (2, kv_heads, 21, dim_head), (2, kv_heads, 21, dim_head))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def merged(t):
    return t.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dim_head", [40, 64, 80, 128])
@pytest.mark.parametrize("scale", [{}, {"scale": None}, {"scale": 0.25}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_layout_scale_and_dtype(wired, dim_head, scale, dtype):
    function, kernel = wired
    q, k, v = inputs(dim_head, dtype=dtype)
    before = [t.clone() for t in (q, k, v)]
    truth = float64_attention(q, k, v, scale=scale.get("scale"))
    limit = 4e-2 if dtype is torch.bfloat16 else 8e-3
    flat = function(merged(q), merged(k), merged(v), 4, **scale)
    assert kernel.q.dtype == flat.dtype == dtype
    assert (flat.double() - merged(truth)).abs().max() < limit
    heads = function(q, k, v, 4, skip_reshape=True, skip_output_reshape=True, **scale)
    assert heads.shape == truth.shape and (heads.double() - truth).abs().max() < limit
    assert all(torch.equal(t, old) for t, old in zip((q, k, v), before, strict=True))


def test_grouped_keys(wired):
    function, _ = wired
    q, k, v = inputs(kv_heads=2)
    out = function(merged(q), merged(k), merged(v), 4, enable_gqa=True)
    assert (out.double() - merged(float64_attention(q, k, v))).abs().max() < 8e-3


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_comfy_kitchen_gets_a_broadcastable_mask_and_dead_rows_are_zeros(kitchen, kind):
    function, kernel = kitchen
    q, k, v = inputs()
    mask = torch.ones(33, 21, dtype=torch.bool).tril_()
    mask[4] = False
    given = mask if kind is torch.bool else torch.zeros(33, 21).masked_fill(~mask, -torch.inf)
    out = function(merged(q), merged(k), merged(v), 4, mask=given)
    assert kernel.mask.shape == (1, 1, 33, 21)
    assert (out.double() - merged(float64_attention(q, k, v, mask.expand(2, 4, 33, 21)))).abs().max() < 8e-3
    assert (out[:, 4] == 0).all()


def test_keys_are_centred_for_sage(sage):
    function, kernel = sage
    q, k, v = inputs()
    function(merged(q), merged(k) + 5, merged(v), 4)
    assert kernel.k.mean(2).abs().max() < 1e-2
