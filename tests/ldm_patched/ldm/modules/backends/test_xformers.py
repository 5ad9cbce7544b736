"""The bias that xformers gets, judged by the input checks of an installed xformers (or the one in XFORMERS_PATH)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import xformers as backend
from attention_patchbay.ldm_patched.ldm.modules.backends.shapes import ALIGNMENT, aligned_bias, to_mask
from attention_patchbay.ldm_patched.modules import model_management

from .conftest import float64_attention

XFORMERS_PATH = os.environ.get("XFORMERS_PATH", "")


def inputs(n_q, n_k, dtype=torch.float32, kv_heads=3):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, n_q, 40), (2, kv_heads, n_k, 40), (2, kv_heads, n_k, 40))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def merged(t):
    return t.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("n_k", [1, 7, 8, 16, 77])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [("k",), ("q", "k"), (2, "q", "k"), (1, 3, "q", "k"), (2, 3, 1, "k"), (2, 1, "q", 1)])
def test_the_bias_is_padded_aligned_and_expanded(n_k, dtype, shape):
    q, _, _ = inputs(5, n_k, dtype)
    mask = torch.rand([{"q": 5, "k": n_k}.get(size, size) for size in shape]) > 0.5
    full = to_mask(mask, q, n_k)
    bias = aligned_bias(full, q, n_k)
    assert bias.dtype == dtype and bias.shape == (2, 3, 5, n_k)
    assert bias.stride(-1) == 1
    assert all(stride % 8 == 0 for stride in bias.stride()[:-1])
    assert bias.data_ptr() % 16 == 0
    assert torch.equal(bias == 0, full.expand(2, 3, 5, n_k))
    # What the mask broadcasts is held once.
    assert bias.untyped_storage().nbytes() == full.numel() // full.shape[-1] * (n_k + -n_k % ALIGNMENT) * dtype.itemsize


@pytest.fixture
def library(monkeypatch):
    """Stand in for xformers 0.0.35: (b, n, h, d) in and out, a bias of the full shape, NaN for a row without keys."""
    calls = []

    def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None, output_dtype=None):
        calls.append(attn_bias)
        q, k, v = (t.transpose(1, 2) for t in (query, key, value))
        assert q.shape[1] == k.shape[1] == v.shape[1]
        assert attn_bias is None or attn_bias.shape == (*q.shape[:3], k.shape[2])
        out = float64_attention(q, k, v, attn_bias, scale).to(query.dtype)
        if attn_bias is not None:
            out[(attn_bias == -torch.inf).all(-1)] = torch.nan
        return out.transpose(1, 2)

    package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    return calls


@pytest.mark.parametrize("kind", [None, torch.bool, torch.float32])
def test_calls_match_float64(library, kind):
    q, k, v = inputs(9, 13, kv_heads=1)
    mask = None
    if kind is not None:
        alive = torch.ones(9, 13, dtype=torch.bool).tril_()
        alive[4] = False
        mask = alive if kind is torch.bool else torch.zeros(9, 13).masked_fill_(~alive, -torch.inf)
    truth = float64_attention(q, k, v, None if mask is None else mask.expand(2, 3, 9, 13), 0.3)
    options = {"mask": mask, "scale": 0.3, "enable_gqa": True}
    flat = backend.attention_xformers(merged(q), merged(k), merged(v), 3, **options)
    assert (flat.double() - merged(truth)).abs().max() < 1e-5
    out = backend.attention_xformers(q, k, v, 3, skip_reshape=True, skip_output_reshape=True, **options)
    assert (out.double() - truth).abs().max() < 1e-5
    assert len(library) == 2


def test_a_broken_release_leaves_large_batches_to_torch(library, monkeypatch):
    q = torch.randn(16384, 1, 4 * 8, generator=torch.Generator().manual_seed(0))
    for broken, calls in ((False, 1), (True, 1)):
        monkeypatch.setattr(model_management, "BROKEN_XFORMERS", broken)
        monkeypatch.setattr(model_management, "BROKEN_XFORMERS_LIMIT", 65535)
        out = backend.attention_xformers(q, q, q, 4)
        assert len(library) == calls
        assert (out - q).abs().max() < 1e-6
    backend.attention_xformers(q[:16383], q[:16383], q[:16383], 4)
    assert len(library) == 2


def test_the_broken_rule_sees_transformer_options_once(library, monkeypatch):
    monkeypatch.setattr(model_management, "BROKEN_XFORMERS", True)
    seen = []

    def override(func, *args, **kwargs):
        seen.append(func)
        return func(*args, **kwargs)

    q = torch.randn(16384, 1, 32)
    backend.attention_xformers(q, q, q, 4, transformer_options={"optimized_attention_override": override})
    assert len(seen) == 1 and library == []


CHILD = Path(__file__).with_name("xformers_child.py")


@pytest.mark.skipif(
    not XFORMERS_PATH and importlib.util.find_spec("xformers") is None,
    reason="xformers is not installed; set XFORMERS_PATH to a folder that holds it",
)
def test_xformers_own_checks_accept_every_bias():
    environment = {**os.environ, "PYTHONPATH": XFORMERS_PATH}
    done = subprocess.run([sys.executable, str(CHILD)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    checked, complaints = done.stdout.split()
    assert int(checked) > 50 and int(complaints) > 0
