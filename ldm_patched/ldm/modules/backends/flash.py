"""Attention of flash-attn, versions 2 to 4: half precision, no mask."""

from __future__ import annotations

from torch import Tensor

from .call import AttentionCall
from .kernel import CUDA, HALF, kernel
from .limits import imported, needs, no_gradients


@kernel(
    "flash",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=256,
    mask=False,
    grouped=True,
    missing=needs("flash_attn", "flash-attn", (8, 0), amd=True, source="flash"),
)
def flash(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with flash-attn: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    attend = imported("flash_attn", "flash_attn_func", "flash")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (b, n, h, d)
    return attend(q, k, v, softmax_scale=scale).transpose(1, 2)


@kernel(
    "flash3",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=256,
    mask=False,
    grouped=True,
    missing=needs("flash_attn_interface", "flash-attn 3", (9, 0), source="flash3"),
)
def flash3(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with flash-attn 3: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    attend = imported("flash_attn_interface", "flash_attn_func", "flash3")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (b, n, h, d)
    return _alone(attend(q, k, v, softmax_scale=scale)).transpose(1, 2)


def _flash4_limit(call: AttentionCall) -> str | None:
    if call.dim_head % 8:
        return f"takes heads of a multiple of 8 channels, not {call.dim_head}"
    return no_gradients(call)


@kernel(
    "flash4",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=128,
    mask=False,
    grouped=True,
    missing=needs("flash_attn.cute", "flash-attn-4", (9, 0), source="flash4"),
    limit=_flash4_limit,
    proven=False,
)
def flash4(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with flash-attn 4: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    attend = imported("flash_attn.cute", "flash_attn_func", "flash4")
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (b, n, h, d)
    return _alone(attend(q, k, v, softmax_scale=scale)).transpose(1, 2)


def _alone(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the result without the logarithms of the sums, which some releases give too."""
    return out[0] if isinstance(out, tuple) else out


attention_flash = flash.function
attention_flash3 = flash3.function
attention_flash4 = flash4.function
