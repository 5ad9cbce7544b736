"""Torch's fused GPU kernels by name: cuDNN's, the memory-efficient one and flash.

The operators are called directly. Torch's own way to ask for one of them, `sdpa_kernel`, sets flags of the whole
process, which calls of other threads would see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import aligned_bias, from_heads, repeat_kv, to_heads, to_mask, zero_dead_rows
from .wrapper import AttentionFunction, wrap_attn

ALIGN = 8  # flash takes heads of a multiple of this many channels
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def _flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    dim_head = q.shape[-1]
    q, k, v = (F.pad(x, (0, -dim_head % ALIGN)) for x in (q, k, v))
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0][..., :dim_head]


def efficient(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Run the memory-efficient kernel on (b, h, n, d) tensors and an aligned bias."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, False, scale=scale)[0]


def _cudnn(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, bias, False, scale=scale)[0]


def _attention(name: str, kernel: Kernel, masks: bool) -> AttentionFunction:
    def attention(
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
        if mask is not None and not masks:
            raise NotImplementedError(f"{name} takes no mask")
        q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
        k, v = repeat_kv(k, v, q.shape[1])
        scale = kwargs.get("scale")
        bias = None if mask is None else aligned_bias(to_mask(mask, q, k.shape[2]), q, k.shape[2])
        out = kernel(q, k, v, bias, q.shape[-1] ** -0.5 if scale is None else scale)
        return from_heads(zero_dead_rows(out, bias), skip_output_reshape)

    attention.__name__ = f"attention_{name}"
    attention.__doc__ = f"Compute attention with torch's {name} kernel: (b, n, heads * d) in and out."
    return wrap_attn(attention)


attention_sdpa_flash = _attention("sdpa_flash", _flash, masks=False)
attention_sdpa_efficient = _attention("sdpa_efficient", efficient, masks=True)
attention_sdpa_cudnn = _attention("sdpa_cudnn", _cudnn, masks=False)
