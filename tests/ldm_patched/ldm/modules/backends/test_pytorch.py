"""What torch's own attention does on a GPU: masks go to the memory-efficient kernel, large batches in parts."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import pytorch
from torch import Tensor

from .conftest import float64_attention
from .test_sdpa import Operator


def inputs(b: int = 5, dim_head: int = 40, kv_heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((b, 4, 33, dim_head), (b, kv_heads, 21, dim_head), (b, kv_heads, 21, dim_head))
    q, k, v = (torch.randn(shape, generator=generator).half() for shape in shapes)
    return q, k, v


def masks(b: int = 5) -> list[Tensor]:
    """Return masks of several shapes, with a row that has no key."""
    generator = torch.Generator().manual_seed(1)
    found = [torch.rand(shape, generator=generator) > 0.3 for shape in ((1, 1, 33, 21), (b, 1, 33, 21), (b, 4, 33, 1))]
    for mask in found:
        mask[..., 3, :] = False
    return found


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Stand in for the memory-efficient kernel; return the biases that it gets."""
    given: list[Tensor] = []
    operator = Operator("sdpa_efficient")

    def call(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, log_sum: bool, *, scale: float) -> tuple[Tensor, None]:
        given.append(bias)
        return operator(q, k, v, bias, log_sum, scale=scale)

    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_efficient_attention", call)
    return given


def check(out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> None:
    full = None if mask is None else mask.expand(q.shape[0], 4, 33, 21)
    truth = float64_attention(q, k, v, full, scale)
    assert (out.double() - truth).abs().max() < 4e-3
    assert (out[(truth == 0.0).all(-1)] == 0.0).all()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("limit", [2, 5])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_masks_go_to_the_kernel_that_reads_them(
    kernel: list[Tensor], monkeypatch: pytest.MonkeyPatch, number: int, scale: float | None, limit: int, kv_heads: int
) -> None:
    monkeypatch.setattr(pytorch, "CUDA_BATCH_LIMIT", limit)
    q, k, v = inputs(kv_heads=kv_heads)
    mask = masks()[number]
    check(pytorch.on_gpu(q, k, v, mask, scale), q, k, v, mask, scale)
    assert len(kernel) == (1 if limit == 5 else 3)


@pytest.mark.parametrize("dim_head", [40, 100])
def test_the_rest_is_left_to_torch(kernel: list[Tensor], dim_head: int) -> None:
    q, k, v = inputs(dim_head=dim_head)
    check(pytorch.on_gpu(q, k, v, None, None), q, k, v, None)
    if dim_head == 100:
        check(pytorch.on_gpu(q, k, v, masks()[0], None), q, k, v, masks()[0])
    q.requires_grad_()
    pytorch.on_gpu(q, k, v, masks()[1], None).sum().backward()
    assert q.grad is not None and q.grad.isfinite().all() and not kernel
