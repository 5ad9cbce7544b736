"""PyTorch's own scaled dot-product attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .kernel import kernel
from .sdpa import efficient
from .shapes import aligned_bias, repeat_kv, zero_dead_rows

# CUDA kernels put the batch on a grid axis of 65535 at most.
CUDA_BATCH_LIMIT = 2**15
# What the memory-efficient kernel takes: dtypes, and heads of a multiple of this many channels.
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
DIM_ALIGN = 8


@kernel("pytorch", grouped=True, dead_rows=True)
def pytorch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention with `scaled_dot_product_attention`: (b, n, heads * d) in and out.

    Its kernels sum the scores in float32 whatever `attn_precision` says.
    """
    if mask is None and k.shape[2] == 1:  # its weight is 1, as for the image that a video model is given
        return repeat_kv(k, v, q.shape[1])[1].expand(-1, -1, q.shape[2], -1)
    if q.is_cuda:
        return on_gpu(q, k, v, mask, scale)
    return scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


attention_pytorch = pytorch.function


def on_gpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Compute (b, h, n, d) attention in batches that a GPU takes."""
    if q.shape[0] <= CUDA_BATCH_LIMIT:
        return _one_batch(q, k, v, mask, scale)
    parts = []
    for start in range(0, q.shape[0], CUDA_BATCH_LIMIT):
        rows = slice(start, start + CUDA_BATCH_LIMIT)
        part = mask if mask is None or mask.shape[0] == 1 else mask[rows]
        parts.append(_one_batch(q[rows], k[rows], v[rows], part, scale))
    return torch.cat(parts)


def _one_batch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Leave the choice of the kernel to torch, but for masks: cuDNN, which it prefers on Hopper, misreads some."""
    grouped = q.shape[1] != k.shape[1]
    if mask is None:
        return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)
    bias = aligned_bias(mask, q, k.shape[2])
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias))
    if learns or q.dtype not in FLOATS or q.shape[-1] % DIM_ALIGN:
        return scaled_dot_product_attention(q, k, v, bias, scale=scale, enable_gqa=grouped)
    k, v = repeat_kv(k, v, q.shape[1])
    return zero_dead_rows(efficient(q, k, v, bias, scale), bias)
