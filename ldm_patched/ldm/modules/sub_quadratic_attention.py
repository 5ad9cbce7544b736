"""Attention in chunks of queries and keys, after "Self-attention Does Not Need O(n^2) Memory", arXiv:2112.05682."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .backends.basic import attend, masked_scores
from .backends.slices import SMALL, fill_slices, memory_budget, row_bytes

# With room for fewer queries than this, splitting the keys as well makes better use of the memory.
MIN_QUERY_CHUNK = 32
MIN_KEY_CHUNK = 256


def efficient_dot_product_attention(
    query: Tensor,
    key_t: Tensor,
    value: Tensor,
    query_chunk_size: int | None = None,
    kv_chunk_size: int | None = None,
    kv_chunk_size_min: int | None = None,
    use_checkpoint: bool = False,
    upcast_attention: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return `softmax(scale * query key_t + mask) value`, holding the scores of one chunk at a time.

    A chunk that runs out of memory is tried again with half the queries.

    Args:
        query: (..., n_q, d), usually (b * h, n_q, d).
        key_t: (..., d, n_k), keys already transposed.
        value: (..., n_k, d_v).
        query_chunk_size: queries of a chunk; by default as many as free memory allows.
        kv_chunk_size: keys of a chunk; by default as many as free memory allows. The softmax streams over the chunks.
        kv_chunk_size_min: least number of keys in a chunk.
        use_checkpoint: recompute each chunk in the backward pass instead of keeping its scores.
        upcast_attention: compute in float32.
        mask: bool (True = attend) or additive, broadcastable to (..., n_q, n_k).
        scale: of the scores, 1 / sqrt(d) by default.
    """
    n_k, given = key_t.shape[-1], query.dtype
    if upcast_attention and given.itemsize < 4:
        query, key_t, value = query.float(), key_t.float(), value.float()
    fit_q, fit_k = chunk_sizes(query, n_k, query.dtype)
    keys = min(max(kv_chunk_size or fit_k, kv_chunk_size_min or 1), n_k)
    step = _stream if keys < n_k else _whole

    def chunk(rows: slice) -> Tensor:
        bias = mask if mask is None or mask.ndim < 2 or mask.shape[-2] == 1 else mask[..., rows, :]
        inputs = (query[..., rows, :], key_t, value, bias, scale, keys)
        return checkpoint(step, *inputs, use_reentrant=False) if use_checkpoint else step(*inputs)

    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    return fill_slices(out, query_chunk_size or fit_q, chunk).to(given)


def chunk_sizes(query: Tensor, n_k: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return how many queries and keys of a chunk fit in memory; all keys where a fair number of queries do."""
    n_q, row = query.shape[-2], row_bytes(query, n_k, dtype)
    if n_q * row <= SMALL:
        return n_q, n_k
    budget = memory_budget(query.device)
    queries = budget // row
    if queries >= min(n_q, MIN_QUERY_CHUNK):
        return queries, n_k
    queries = min(n_q, MIN_QUERY_CHUNK)
    keys = budget // row_bytes(query, queries, dtype)
    return queries, max(MIN_KEY_CHUNK, keys)


def _whole(q: Tensor, key_t: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, keys: int) -> Tensor:
    return attend(q, key_t.transpose(-1, -2), v, mask, scale)


def _stream(q: Tensor, key_t: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, keys: int) -> Tensor:
    """Attend chunk by chunk of the keys with a running maximum and sum of the softmax (section 2 of the paper)."""
    wide = torch.float32 if q.dtype.itemsize < 4 else q.dtype
    top = q.new_full((*q.shape[:-1], 1), float("-inf"), dtype=wide)
    total = torch.zeros_like(top)
    out = q.new_zeros((*q.shape[:-1], v.shape[-1]), dtype=wide)
    for start in range(0, v.shape[-2], keys):
        part = slice(start, start + keys)
        bias = mask if mask is None or mask.shape[-1] == 1 else mask[..., part]
        scores = masked_scores(q, key_t[..., part].transpose(-1, -2), scale, bias).to(wide)
        peak = torch.maximum(top, scores.detach().amax(-1, keepdim=True))
        # A row without any key so far has -inf for its peak; exp(-inf - 0) is the zero it needs.
        base = peak.masked_fill(peak == float("-inf"), 0.0)
        shrink = (top - base).exp()
        weights = (scores - base).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        out = out * shrink + weights.to(q.dtype) @ v[..., part, :]
        top = peak
    return (out / total.masked_fill(total == 0.0, 1.0)).to(q.dtype)
