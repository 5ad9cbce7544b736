"""Head layouts and masks in the one form every attention function works on.

Notation: b batch, h heads, n tokens, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALIGNMENT = 16  # rows of a bias begin at a multiple of this many numbers


def to_heads(
    q: Tensor, k: Tensor, v: Tensor, heads: int, skip_reshape: bool = False, enable_gqa: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """View q, k, v as (b, h, n, d); they come as (b, n, h * d), k and v as (b, n, h, d) too, or as they shall be with
    `skip_reshape`.

    With `enable_gqa` keys and values may have fewer heads than the queries, and keep them here.
    """
    if skip_reshape:
        return q, k, v
    b, _, width = q.shape
    kv_heads = k.shape[2:].numel() // (width // heads) if enable_gqa else heads
    # Keys and values take the batch of q: HyperTile folds its tiles into the batch of q alone.
    return _split(q, b, heads), _split(k, b, kv_heads), _split(v, b, kv_heads)


def _split(x: Tensor, b: int, heads: int) -> Tensor:
    if x.ndim == 4:  # SD3 hands its values on as (b, n, h, d)
        return x.transpose(1, 2)
    width = x.shape[-1]
    dim_head = width // heads
    if x.requires_grad or not x.is_contiguous():
        return x.reshape(b, -1, heads, dim_head).transpose(1, 2)
    tokens = x.numel() // (b * width)
    # one view in place of two: on a tiny call the views take as long as the kernel
    return x.as_strided((b, heads, tokens, dim_head), (tokens * width, dim_head, width, 1))


def from_heads(out: Tensor, skip_output_reshape: bool = False) -> Tensor:
    """Merge (b, h, n, d) into (b, n, h * d), unless told to leave it."""
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def repeat_kv(k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Repeat grouped (b, kv_heads, n, d) keys and values so that each of `heads` query heads has its own."""
    groups = heads // k.shape[1]
    if groups == 1:
        return k, v
    return k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)


def to_mask(mask: Tensor, q: Tensor, n_k: int) -> Tensor:
    """View a mask as 4-D, broadcastable to (b, h, n_q, n_k); float masks get the dtype of q, which is (b, h, n_q, d).

    2-D is (n_q, n_k) where that fits, else (b, n_k). 3-D is (b, n_q, n_k) where that fits, else (h, n_q, n_k) or
    (b * h, n_q, n_k).
    """
    b, h, n_q, _ = q.shape
    if mask.dtype is not torch.bool:
        if not mask.is_floating_point():
            raise ValueError(f"attention mask is {mask.dtype}: give a bool mask (True = attend) or a float one (added)")
        mask = mask.to(q.dtype)
    shape = mask.shape
    if mask.ndim < 2:
        full = mask.reshape(1, 1, 1, -1)
    elif mask.ndim == 2:
        full = mask[:, None, None] if shape[0] not in (1, n_q) and shape[0] == b else mask[None, None]
    elif mask.ndim == 3:
        full = _from_3d(mask, b, h)
    else:
        full = mask
    if full.ndim != 4 or any(size not in (1, whole) for size, whole in zip(full.shape, (b, h, n_q, n_k), strict=True)):
        raise ValueError(f"attention mask of shape {tuple(shape)} does not broadcast to {(b, h, n_q, n_k)}")
    return full


def _from_3d(mask: Tensor, b: int, h: int) -> Tensor:
    if mask.shape[0] not in (1, b):
        if mask.shape[0] == h:
            return mask[None]
        if mask.shape[0] == b * h:
            return mask.unflatten(0, (b, h))
    return mask[:, None]


def to_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a bool mask into an additive one: 0 to attend, -inf not to; float masks pass."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def additive_bias(mask: Tensor, q: Tensor, n_k: int) -> Tensor:
    """Turn a 4-D mask into a float bias of the same shape."""
    return to_bias(mask, q.dtype)


def aligned_bias(mask: Tensor, q: Tensor, n_k: int) -> Tensor:
    """Turn a 4-D mask into a float bias (b, h, n_q, n_k) whose rows begin where GPU kernels can read them: a slice of a
    tensor with padded rows.

    Dimensions that the mask broadcasts stay broadcast in memory.
    """
    padded = q.new_zeros(*mask.shape[:3], n_k + -n_k % ALIGNMENT)
    bias = padded[..., :n_k]
    bias.copy_(to_bias(mask, q.dtype))
    return bias.expand(*q.shape[:3], n_k)


def zero_dead_rows(out: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the rows of out, (b, h, n_q, d), that the 4-D mask leaves no key; kernels differ in what they put there."""
    if mask is None:
        return out
    alive = mask if mask.dtype is torch.bool else mask > float("-inf")
    return out.masked_fill(~alive.any(-1, keepdim=True), 0.0)
