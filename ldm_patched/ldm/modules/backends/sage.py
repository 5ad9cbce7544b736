"""Quantised attention: SageAttention 1 and 2 (arXiv:2410.02367, 2411.10958), SageAttention 3 (2505.11594), and the
int8 kernel of comfy-kitchen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import from_heads, repeat_kv, to_heads, to_mask, zero_dead_rows
from .wrapper import wrap_attn

# Version 1 has kernels for these head sizes only; zeros fill a head up without changing any score.
SAGE_DIM_HEADS = (64, 96, 128)


@wrap_attn
def attention_sage(
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
    """Compute attention with int8 scores: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    if mask is not None:
        raise NotImplementedError("sage attention takes no mask")
    from sageattention import sageattn

    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    dim_head = q.shape[-1]
    scale = kwargs.get("scale")
    # Keys are centred here, on a copy: with smooth_k version 1 would subtract the mean from the caller's own tensor.
    q, k, v = (_widen(t, dim_head) for t in (q, k - k.mean(2, keepdim=True), v))
    out = sageattn(
        q, k, v, tensor_layout="HND", sm_scale=dim_head**-0.5 if scale is None else scale, smooth_k=False
    )  # (b, h, n, d)
    return from_heads(out[..., :dim_head], skip_output_reshape)


def _widen(t: Tensor, dim_head: int) -> Tensor:
    wide = next((size for size in SAGE_DIM_HEADS if size >= dim_head), dim_head)
    return t if wide == dim_head else F.pad(t, (0, wide - dim_head))


@wrap_attn
def attention_sage3(
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
    """Compute attention in fp4 on Blackwell: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    if mask is not None:
        raise NotImplementedError("sage3 attention takes no mask")
    from sageattn3 import sageattn3_blackwell

    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    scale = kwargs.get("scale")
    if scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)  # the kernel has 1 / sqrt(d) built in
    out = sageattn3_blackwell(q.contiguous(), k.contiguous(), v.contiguous())  # (b, h, n, d)
    return from_heads(out, skip_output_reshape)


@wrap_attn
def attention_comfy_kitchen_int8(
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
    """Compute attention with comfy-kitchen's int8 kernel: (b, n, heads * d) in and out."""
    from comfy_kitchen import int8_attention

    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    full = None if mask is None else to_mask(mask, q, k.shape[2])
    out = int8_attention(q, k, v, scale=kwargs.get("scale"), attn_mask=full)
    return from_heads(zero_dead_rows(out, full), skip_output_reshape)
