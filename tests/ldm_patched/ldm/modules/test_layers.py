"""Small functions, feed-forward and attention layers against float64 formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules import attention as A

from . import formulas
from .formulas import made, noise


def test_exists_and_default() -> None:
    assert A.exists(0) and A.exists(False) and not A.exists(None)
    assert A.default(0, 5) == 0 and A.default(None, 5) == 5


def test_uniq_keeps_first_occurrences_in_order() -> None:
    view = A.uniq(iter([3, 1, 3, 2, 1]))
    assert list(view) == [3, 1, 2] and isinstance(view, type({}.keys()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_max_neg_value(dtype: torch.dtype) -> None:
    lowest = torch.tensor(A.max_neg_value(torch.zeros(1, dtype=dtype)), dtype=torch.float64)
    assert torch.isfinite(lowest.to(dtype)) and lowest.to(dtype) == torch.finfo(dtype).min


def test_init_is_uniform_within_one_over_root_n() -> None:
    torch.manual_seed(0)
    tensor = torch.full((400, 25), math.nan)
    assert A.init_(tensor) is tensor
    assert tensor.abs().max() <= 0.2 and tensor.std() == pytest.approx(0.2 / math.sqrt(3), rel=0.05)
    A.init_(torch.nn.Parameter(torch.zeros(2, 2)))


def test_normalize() -> None:
    norm = A.Normalize(64, dtype=torch.float64)
    x = noise(2, 64, 5, 5)
    groups = x.reshape(2, 32, -1)
    truth = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), truth.reshape(x.shape))
    assert norm.weight.requires_grad and torch.equal(norm.weight, torch.ones(64, dtype=torch.float64))


def test_geglu() -> None:
    layer = made(A.GEGLU, 6, 10)
    x = noise(2, 3, 6)
    kept, gate = formulas.linear(x, layer.proj).chunk(2, -1)
    torch.testing.assert_close(layer(x), kept * formulas.gelu(gate))


@pytest.mark.parametrize("glu", [False, True])
def test_feed_forward(glu: bool) -> None:
    layer = made(A.FeedForward, 6, dim_out=9, mult=2.5, glu=glu)
    x = noise(2, 3, 6)
    assert layer.net[2].in_features == 15
    torch.testing.assert_close(layer(x), formulas.feed_forward(x, layer, glu))


def test_dropout_acts_only_in_training() -> None:
    for build, args in ((A.FeedForward, (6,)), (A.CrossAttention, (6,))):
        layer = made(build, *args, dropout=1.0)
        out = layer(noise(2, 3, 6))
        # all that dropout leaves of the layer is what follows it
        assert torch.equal(
            out, torch.zeros_like(out) if build is A.CrossAttention else layer.net[2].bias.expand(2, 3, 6)
        )
        layer.eval()
        assert layer(noise(2, 3, 6)).std() > 0


@pytest.mark.parametrize("heads", [1, 4])
def test_cross_attention(heads: int) -> None:
    layer = made(A.CrossAttention, 12, context_dim=10, heads=heads, dim_head=8)
    x, context, value = noise(2, 5, 12), noise(2, 7, 10, seed=1), noise(2, 7, 10, seed=2)
    torch.testing.assert_close(layer(x, context), formulas.cross_attention(layer, x, context))
    torch.testing.assert_close(layer(x, context, value=value), formulas.cross_attention(layer, x, context, value))
    own = made(A.CrossAttention, 12, heads=heads, dim_head=8)
    torch.testing.assert_close(own(x), formulas.cross_attention(own, x))


@pytest.mark.parametrize("additive", [False, True])
def test_cross_attention_mask(additive: bool) -> None:
    layer = made(A.CrossAttention, 12, heads=2, dim_head=8)
    x = noise(2, 5, 12)
    allowed = torch.ones(5, 5).tril().bool()
    mask = torch.zeros(5, 5, dtype=torch.float64).masked_fill(~allowed, -math.inf) if additive else allowed
    q, k, v = (formulas.linear(x, project) for project in (layer.to_q, layer.to_k, layer.to_v))
    truth = formulas.linear(formulas.heads_attention(q, k, v, 2, allowed), layer.to_out[0])
    torch.testing.assert_close(layer(x, mask=mask), truth)


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_calls_the_override(masked: bool) -> None:
    layer = made(A.CrossAttention, 12, heads=2, dim_head=8, attn_precision=torch.float32)
    calls: list[Any] = []

    def override(func: Any, q: Any, k: Any, v: Any, heads: int, *args: Any, **kwargs: Any) -> Any:
        calls.append((q.shape, heads, kwargs["attn_precision"], kwargs["transformer_options"]["note"]))
        return v

    options = {"optimized_attention_override": override, "note": 3}
    mask = torch.ones(5, 5).bool() if masked else None
    out = layer(noise(2, 5, 12), mask=mask, transformer_options=options)
    assert calls == [((2, 5, 16), 2, torch.float32, 3)]
    torch.testing.assert_close(out, layer.to_out(layer.to_v(noise(2, 5, 12))))
