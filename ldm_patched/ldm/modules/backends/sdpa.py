"""Torch's fused GPU kernels by name: cuDNN's, the memory-efficient one and flash.

The operators are called directly. Torch's own way to ask for one of them, `sdpa_kernel`, sets flags of the whole
process, which calls of other threads would see.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import AttentionCall
from .kernel import CUDA, FLOATS, HALF, kernel
from .limits import gpu, no_gradients
from .shapes import aligned_bias

ALIGN = 8  # flash takes heads of a multiple of this many channels


def _factor(q: Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


@kernel("sdpa_flash", devices=CUDA, dtypes=HALF, max_dim_head=256, mask=False, missing=gpu((8, 0)))
def sdpa_flash(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with torch's flash kernel: (b, n, heads * d) in and out."""
    dim_head, factor = q.shape[-1], _factor(q, scale)
    q, k, v = (F.pad(x, (0, -dim_head % ALIGN)) for x in (q, k, v))
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=factor)[0][..., :dim_head]


def efficient(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Run the memory-efficient kernel on (b, h, n, d) tensors and an aligned bias."""
    factor = _factor(q, scale)
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, False, scale=factor)[0]


@kernel("sdpa_efficient", devices=CUDA, dtypes=FLOATS, bias=aligned_bias, missing=gpu((5, 0)), limit=no_gradients)
def sdpa_efficient(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention with torch's memory-efficient kernel: (b, n, heads * d) in and out."""
    return efficient(q, k, v, bias, scale)


def _cudnn_limit(call: AttentionCall) -> str | None:
    if call.dim_head % 8:
        return f"takes heads of a multiple of 8 channels, not {call.dim_head}"
    return "takes more than one query and key" if min(call.n_q, call.n_k) < 2 else no_gradients(call)


@kernel(
    "sdpa_cudnn",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=128,
    mask=False,
    missing=gpu((8, 0), amd=False),
    limit=_cudnn_limit,
)
def sdpa_cudnn(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with torch's cuDNN kernel: (b, n, heads * d) in and out."""
    factor = _factor(q, scale)
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False, scale=factor)[0]


attention_sdpa_flash = sdpa_flash.function
attention_sdpa_efficient = sdpa_efficient.function
attention_sdpa_cudnn = sdpa_cudnn.function
