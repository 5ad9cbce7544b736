"""Attention of flash-attn, versions 2 and 3: half precision, no mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .shapes import from_heads, to_heads
from .wrapper import wrap_attn


@wrap_attn
def attention_flash(
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
    """Compute attention with flash-attn: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    if mask is not None:
        raise NotImplementedError("flash attention takes no mask")
    from flash_attn import flash_attn_func

    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    out = flash_attn_func(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), softmax_scale=kwargs.get("scale")
    )  # (b, n, h, d)
    return from_heads(out.transpose(1, 2), skip_output_reshape)


@wrap_attn
def attention_flash3(
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
    """Compute attention with flash-attn 3: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    if mask is not None:
        raise NotImplementedError("flash3 attention takes no mask")
    from flash_attn_interface import flash_attn_func

    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    out = flash_attn_func(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), softmax_scale=kwargs.get("scale"))
    out = out[0] if isinstance(out, tuple) else out  # its first releases also gave the logarithms of the sums
    return from_heads(out.transpose(1, 2), skip_output_reshape)  # (b, n, h, d)
