"""PyTorch's own scaled dot-product attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .sdpa import efficient
from .shapes import aligned_bias, from_heads, repeat_kv, to_heads, to_mask, zero_dead_rows
from .wrapper import wrap_attn

# CUDA kernels put the batch on a grid axis of 65535 at most.
CUDA_BATCH_LIMIT = 2**15
# What the memory-efficient kernel takes: dtypes, and heads of a multiple of this many channels.
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
DIM_ALIGN = 8


@wrap_attn
def attention_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Compute attention with `scaled_dot_product_attention`: (b, n, heads * d) in and out.

    Its kernels sum the scores in float32 whatever `attn_precision` says.
    """
    gqa = kwargs.get("enable_gqa", False)
    q, k, v = to_heads(q, k, v, heads, skip_reshape, gqa)
    if mask is not None:
        mask = to_mask(mask, q, k.shape[2])
    scale = kwargs.get("scale")
    if k.shape[2] == 1 and mask is None:  # its weight is 1, as for the picture that a video model is given
        out = repeat_kv(k, v, q.shape[1])[1].expand(-1, -1, q.shape[2], -1)
    elif q.device.type == "cuda":
        out = on_gpu(q, k, v, mask, scale, gqa)
    else:
        out = scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=gqa)
    return from_heads(out, skip_output_reshape)


def on_gpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, gqa: bool) -> Tensor:
    """Compute (b, h, n, d) attention in batches that a GPU takes."""
    if q.shape[0] <= CUDA_BATCH_LIMIT:
        return _one_batch(q, k, v, mask, scale, gqa)
    parts = []
    for start in range(0, q.shape[0], CUDA_BATCH_LIMIT):
        rows = slice(start, start + CUDA_BATCH_LIMIT)
        part = mask if mask is None or mask.shape[0] == 1 else mask[rows]
        parts.append(_one_batch(q[rows], k[rows], v[rows], part, scale, gqa))
    return torch.cat(parts)


def _one_batch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, gqa: bool) -> Tensor:
    """Leave the choice of the kernel to torch, but for masks: cuDNN, which it prefers on Hopper, misreads some."""
    if mask is None:
        return scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=gqa)
    bias = aligned_bias(mask, q, k.shape[2])
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias))
    if learns or q.dtype not in FLOATS or q.shape[-1] % DIM_ALIGN:
        return scaled_dot_product_attention(q, k, v, bias, scale=scale, enable_gqa=gqa)
    k, v = repeat_kv(k, v, q.shape[1])
    out = efficient(q, k, v, bias, q.shape[-1] ** -0.5 if scale is None else scale)
    return zero_dead_rows(out, bias)
