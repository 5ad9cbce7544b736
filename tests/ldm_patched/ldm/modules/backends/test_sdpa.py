"""Torch's GPU kernels by name: what the operators are called with, and their own signatures on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from torch import Tensor

from .conftest import float64_attention
from .test_kernels import inputs, merged

NAMES = ["sdpa_flash", "sdpa_efficient", "sdpa_cudnn"]


class Operator:
    """Stand in for an operator of torch: check what its kernel demands, and compute it in float64."""

    def __init__(self, name: str) -> None:
        self.flash, self.efficient = name == "sdpa_flash", name == "sdpa_efficient"
        self.bias: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *given: Any, scale: float) -> tuple[Tensor, None]:
        assert q.dtype == k.dtype == v.dtype and q.shape[:2] == k.shape[:2] and k.shape == v.shape
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        if self.flash:
            assert given == () and q.shape[-1] % 8 == 0
        else:
            self.bias, log_sum = given
            assert log_sum is False
        if self.bias is not None:
            assert self.efficient and self.bias.shape == (*q.shape[:3], k.shape[2]) and self.bias.dtype == q.dtype
            assert self.bias.stride(-1) == 1 and all(stride % 8 == 0 for stride in self.bias.stride()[:3])
        out = float64_attention(q, k, v, self.bias, scale)
        return torch.nan_to_num(out, 7.0).to(q.dtype), None


@pytest.fixture(params=NAMES)
def wired(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Operator]:
    name = request.param
    operator = Operator(name)
    monkeypatch.setattr(torch.ops.aten, f"_scaled_dot_product_{name[5:]}_attention", operator)
    return registry.get(name), operator


@pytest.mark.parametrize("dim_head", [40, 64, 100])
def test_layouts_and_scale(wired: tuple[Any, Operator], dim_head: int) -> None:
    backend, _ = wired
    q, k, v = inputs(dim_head)
    truth = float64_attention(q, k, v)
    out = backend.function(merged(q), merged(k), merged(v), 4)
    assert out.dtype == torch.float16 and (out.double() - merged(truth)).abs().max() < 4e-3
    scaled = backend.function(q, k, v, 4, skip_reshape=True, skip_output_reshape=True, scale=0.3)
    assert (scaled.double() - float64_attention(q, k, v, scale=0.3)).abs().max() < 4e-3


@pytest.mark.parametrize("shape", [(33, 21), (2, 1, 33, 21), (2, 21), (1, 4, 33, 21)])
def test_the_efficient_kernel_gets_an_aligned_bias(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    operator = Operator("sdpa_efficient")
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_efficient_attention", operator)
    q, k, v = inputs(64)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[..., 0, :] = False
    backend = registry.get("sdpa_efficient")
    assert backend is not None
    out = backend.function(q, k, v, 4, mask, skip_reshape=True, skip_output_reshape=True)
    full = mask[:, None, None] if shape == (2, 21) else mask
    truth = float64_attention(q, k, v, full.expand(2, 4, 33, 21))
    assert (out.double() - truth).abs().max() < 4e-3 and operator.bias is not None
    assert (out[(truth == 0.0).all(-1)] == 0.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_operators_of_this_torch_take_the_call(name: str) -> None:
    q, k, v = (x.to("meta") for x in inputs(40))
    backend = registry.get(name)
    assert backend is not None
    out = backend.function(q, k, v, 4, skip_reshape=True)
    assert out.shape == (2, 33, 160) and out.device.type == "meta"
    if backend.mask:
        mask = torch.empty(33, 21, dtype=torch.bool, device="meta")
        assert backend.function(q, k, v, 4, mask, skip_reshape=True).shape == (2, 33, 160)


def test_they_say_why_they_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    call = registry.AttentionCall(2, 8, 8, 77, 77, 40, torch.float16, "cpu")
    for name in NAMES:
        assert "runs on cuda, not cpu" in registry.get(name).reasons(call)  # type: ignore[union-attr]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    flash = registry.get("sdpa_flash")
    assert flash is not None and "compute capability 8.0" in flash.reasons(call)[0]
