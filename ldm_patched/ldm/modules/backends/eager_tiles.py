"""Attention in tiles that stay in the cache, of torch's own operations: product, exponential, product, all in bfloat16.

A tile is one head and as many queries as a core's cache holds scores of, so that each step is one large operation.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor

# Each row's scores are taken relative to the largest of every eighth key, so that their rounding is relative to it. The
# differences stay within the exponents of bfloat16 as long as no score can exceed this (in powers of two).
STRIDE, SAFE, MANY_KEYS = 8, 60.0, 512
TINY = torch.finfo(torch.bfloat16).tiny  # the sum of a row that a mask leaves no key
CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")


@functools.cache
def cache_bytes() -> int:
    """Return the size of a core's second-level cache; 1 MiB where the system does not say."""
    try:
        return int(CACHE.read_text().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 1024 * 1024


def _of_heads(bias: Tensor, first: int, last: int, heads: int) -> Tensor:
    """Return the mask (b or 1, h or 1, n_q or 1, n_k) of some of the b * h heads: (heads or 1, n_q or 1, n_k)."""
    if bias.shape[:2] == (1, 1):
        return bias[0]
    index = torch.arange(first, last)
    return bias[index // heads if bias.shape[0] > 1 else 0, index % heads if bias.shape[1] > 1 else 0]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    """Compute softmax(factor * q k' + bias) v, both in powers of two, with rounded scores: bfloat16 (b, h, n, d).

    The bias is (b or 1, h or 1, n_q or 1, n_k). A score is rounded to 8 bits of its distance from about the largest of
    its row, so what weighs most is most exact. A query without a key gets zeros.
    """
    flat_q, flat_k, flat_v = (x.flatten(0, 1) for x in (q, k, v))  # (b * h, n, d)
    rounded = None if bias is None else bias.to(torch.bfloat16)
    return _attend(flat_q, flat_k, flat_v, q.shape[1], factor, rounded).unflatten(0, q.shape[:2])


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, factor: float, bias: Tensor | None) -> Tensor:
    total, n_q, _ = q.shape
    n_k = k.shape[1]
    keys = k.transpose(1, 2).contiguous()  # (b * h, d, n_k)
    out = q.new_empty(total, n_q, v.shape[2])
    # a mask may leave a row none of the few keys, and few of some tell little
    bounds = _bounds(q, k, factor) if bias is None and n_k >= MANY_KEYS else [math.inf] * total
    scores = cache_bytes() * torch.get_num_threads()  # two bytes each: twice the caches
    rows = min(n_q, max(64, scores // n_k))
    group = max(1, scores // (n_q * n_k))
    for first in range(0, total, group):
        some = slice(first, min(first + group, total))
        stride = STRIDE if max(bounds[some]) <= SAFE else 1
        few = keys[some, :, ::stride].contiguous()
        shared = None if bias is None else _of_heads(bias, some.start, some.stop, heads)
        for start in range(0, n_q, rows):
            tile = slice(start, start + rows)
            added = shared if shared is None or shared.shape[1] == 1 else shared[:, tile]
            weights = _weights(q[some, tile], keys[some], few, factor, added)
            torch.div(weights @ v[some], weights.sum(2, keepdim=True).clamp_(min=TINY), out=out[some, tile])
    return out


def _weights(q: Tensor, keys: Tensor, few: Tensor, factor: float, bias: Tensor | None) -> Tensor:
    """Return what each key weighs, (h, rows, n_k), up to a factor for each row."""
    if bias is None:
        largest = (q @ few).mul_(factor).amax(2, keepdim=True)
        return torch.baddbmm(-largest, q, keys, alpha=factor).exp2_()
    largest = torch.baddbmm(bias, q, few, alpha=factor).amax(2, keepdim=True)
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    return torch.baddbmm(bias - largest, q, keys, alpha=factor).exp2_()


def _bounds(q: Tensor, k: Tensor, factor: float) -> list[float]:
    """Return what no score of each head can exceed, by the lengths of queries and keys."""
    longest = [x.norm(dim=2, dtype=torch.float32).amax(1) for x in (q, k)]  # (h,)
    return (longest[0] * longest[1] * abs(factor)).tolist()
