"""Attention of flash-attn, versions 2 and 3: half precision, no mask."""

from __future__ import annotations

from torch import Tensor

from .kernel import CUDA, HALF, kernel
from .limits import needs


@kernel(
    "flash",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=256,
    mask=False,
    grouped=True,
    missing=needs("flash_attn", "flash-attn", (8, 0)),
)
def flash(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with flash-attn: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    from flash_attn import flash_attn_func

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (b, n, h, d)
    return flash_attn_func(q, k, v, softmax_scale=scale).transpose(1, 2)


@kernel(
    "flash3",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=256,
    mask=False,
    grouped=True,
    missing=needs("flash_attn_interface", "flash-attn 3", (9, 0)),
)
def flash3(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with flash-attn 3: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    from flash_attn_interface import flash_attn_func

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (b, n, h, d)
    out = flash_attn_func(q, k, v, softmax_scale=scale)
    # its first releases also gave the logarithms of the sums
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


attention_flash = flash.function
attention_flash3 = flash3.function
