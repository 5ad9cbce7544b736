"""Memory-efficient attention of the xformers library."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ....modules import model_management
from .call import AttentionCall
from .kernel import CUDA, FLOATS, kernel
from .limits import failure_to_load, needs
from .pytorch import attention_pytorch
from .shapes import aligned_bias


def _broken(batch_heads: int) -> bool:
    return model_management.BROKEN_XFORMERS and batch_heads > model_management.BROKEN_XFORMERS_LIMIT


def _limit(call: AttentionCall) -> str | None:
    """Return what xformers does not take; on a GPU it is asked itself."""
    if _broken(call.b * call.heads):
        return f"this release fails for batch * heads > {model_management.BROKEN_XFORMERS_LIMIT}"
    if call.dim_head * call.dtype.itemsize % 16:
        return f"takes heads whose channels fill whole 16 bytes, not {call.dim_head} of {call.dtype}"
    if call.device == "cuda" and torch.cuda.is_available() and failure_to_load("xformers.ops") is None:
        return refusal(call.dtype, call.dim_head, call.mask is not None)
    return None


@functools.cache
def refusal(dtype: torch.dtype, dim_head: int, masked: bool) -> str | None:
    """Return why xformers has no kernel for a kind of call on this GPU, None if a small call of it runs.

    Which it has depends on the GPU, on how it was built, and on whether that fits this torch.
    """
    from xformers.ops import memory_efficient_attention

    x = torch.zeros(1, 8, 1, dim_head, dtype=dtype, device="cuda")  # (b, n, h, d)
    try:
        memory_efficient_attention(x, x, x, attn_bias=x.new_zeros(1, 1, 8, 8) if masked else None)
    except NotImplementedError as error:
        reasons = str(error).partition("because:")[2].split("\n`")[0].strip().splitlines()
        said = "; ".join(line.strip() for line in reasons) or str(error)
        return f"xformers has no kernel for this call here: {said}"
    return None


@kernel(
    "xformers",
    devices=CUDA,
    dtypes=FLOATS,
    bias=aligned_bias,
    missing=needs("xformers", "xformers", amd=True),
    limit=_limit,
)
def xformers(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention with xformers, or with torch where xformers is broken: (b, n, heads * d) in and out."""
    if _broken(q.shape[0] * q.shape[1]):
        return attention_pytorch(q, k, v, q.shape[1], bias, skip_reshape=True, skip_output_reshape=True, scale=scale)
    from xformers.ops import memory_efficient_attention

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (b, n, h, d)
    return memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale).transpose(1, 2)


attention_xformers = xformers.function
