"""Quantised attention: SageAttention 1 and 2 (arXiv:2410.02367, 2411.10958), SageAttention 3 (2505.11594), and the
int8 kernel of comfy-kitchen."""

from __future__ import annotations

import functools
import importlib.metadata
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import AttentionCall
from .kernel import CUDA, FLOATS, HALF, kernel
from .limits import imported, needs

# Version 1 has kernels for these head sizes only; zeros fill a head up without changing any score.
SAGE_DIM_HEADS = (64, 96, 128)
SAGE_BLOCK = 64  # keys that version 1 takes at once

_kitchen_missing = needs("comfy_kitchen", "comfy-kitchen", (7, 5), amd=True)
INT8 = dict.fromkeys(FLOATS, 5e-2)
INT8_FP8 = dict.fromkeys(FLOATS, 2e-1)  # newer GPUs also keep the values in 8 bits, with 3 of mantissa
FP4 = dict.fromkeys(HALF, 2e-1)


def _limit(call: AttentionCall) -> str | None:
    """Return what SageAttention refuses: version 1 counts keys of score 0 that are not there in its last block."""
    if call.n_k % SAGE_BLOCK and sage_version() == 1:
        return f"version 1 takes keys in whole blocks of {SAGE_BLOCK}, not {call.n_k}"
    return None


@functools.cache
def sage_version() -> int:
    """Return the installed version of SageAttention; 2 where there is no record of it, which version 1 leaves."""
    try:
        return int(importlib.metadata.version("sageattention").partition(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return 2


@kernel(
    "sage",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=128,
    mask=False,
    grouped=True,
    exact=False,
    tolerance=INT8_FP8,
    missing=needs("sageattention", "sageattention", (8, 0), amd=True, source="sage"),
    limit=_limit,
)
def sage(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention with int8 scores: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    attend = imported("sageattention", "sageattn", "sage")
    dim_head = q.shape[-1]
    # Keys are centred here, on a copy: with smooth_k version 1 would subtract the mean from the caller's own tensor.
    q, k, v = (_widen(t, dim_head) for t in (q, k - k.mean(2, keepdim=True), v))
    factor = dim_head**-0.5 if scale is None else scale
    return attend(q, k, v, tensor_layout="HND", sm_scale=factor, smooth_k=False)[..., :dim_head]


def _widen(t: Tensor, dim_head: int) -> Tensor:
    wide = next((size for size in SAGE_DIM_HEADS if size >= dim_head), dim_head)
    return t if wide == dim_head else F.pad(t, (0, wide - dim_head))


@kernel(
    "sage3",
    devices=CUDA,
    dtypes=HALF,
    max_dim_head=255,
    mask=False,
    exact=False,
    tolerance=FP4,
    missing=needs("sageattn3", "sageattn3", (10, 0), source="sage3"),
    proven=False,
    hosted=True,
)
def sage3(q: Tensor, k: Tensor, v: Tensor, mask: None, scale: float | None) -> Tensor:
    """Compute attention in fp4 on Blackwell: (b, n, heads * d) in and out. Raises NotImplementedError for a mask."""
    attend = imported("sageattn3", "sageattn3_blackwell", "sage3")
    if scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)  # the kernel has 1 / sqrt(d) built in
    return attend(q.contiguous(), k.contiguous(), v.contiguous())


def _int8_missing() -> str | None:
    """Return why comfy-kitchen cannot run its kernel here; it knows itself which GPUs of AMD have what that takes."""
    reason = _kitchen_missing()
    if reason is not None or not torch.cuda.is_available():
        return reason
    able = getattr(sys.modules.get("comfy_kitchen"), "int8_attention_is_available", None)
    return None if able is None or able() else "comfy-kitchen has no int8 attention for this GPU"


@kernel(
    "comfy_kitchen_int8",
    devices=CUDA,
    dtypes=FLOATS,
    max_dim_head=256,
    grouped=True,
    exact=False,
    tolerance=INT8,
    missing=_int8_missing,
    hosted=True,
)
def comfy_kitchen_int8(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention with comfy-kitchen's int8 kernel: (b, n, heads * d) in and out."""
    from comfy_kitchen import int8_attention

    return int8_attention(q, k, v, scale=scale, attn_mask=mask)


attention_sage = sage.function
attention_sage3 = sage3.function
attention_comfy_kitchen_int8 = comfy_kitchen_int8.function
