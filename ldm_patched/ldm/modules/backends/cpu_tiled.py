"""Attention on a CPU in tiles that stay in the cache.

Torch's fused kernel spends most of its time on the exponentials and on products of small blocks. Where the machine has
a C++ compiler a tile is a few rows of scores that never leave the first cache (`compiled_tiles.py`). Else, and where
that takes longer, it is as many rows as the caches hold (`eager_tiles.py`), in bfloat16 only.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from . import compiled_tiles, eager_tiles
from .call import AttentionCall
from .kernel import CPU, kernel
from .limits import no_gradients
from .shapes import additive_bias

LOG2_E = math.log2(math.e)
LEAST_TOKENS, LEAST_SCORES = 64, 2**15  # for each thread; below these one fused call takes less time
LEAST_TOKENS_FLOAT32 = 1024
ROUNDS, TRIED = 15, (1, 4, 1024, 64)  # (b, h, n, d) of the call that tells what takes less time here
LOWEST = torch.finfo(torch.bfloat16).min / 4.0  # of a bias; only what is -inf already shuts a key out


class Tiles(Protocol):
    """The files with tiles."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, factor: float) -> Tensor: ...


def _limit(call: AttentionCall) -> str | None:
    if call.precision == torch.float32:
        return "takes no float32 scores"
    return no_gradients(call)


def _limit_of_both(call: AttentionCall) -> str | None:
    if call.dtype is not torch.float32:
        return _limit(call)
    reason = _missing()
    return no_gradients(call) if reason is None else f"takes float32 in compiled tiles only, which {reason}"


def _pays(batch_heads: int, n_q: int, n_k: int, dtype: torch.dtype) -> bool:
    """Return whether tiles beat torch's fused kernel."""
    if dtype is torch.float32:
        return min(n_q, n_k) >= LEAST_TOKENS_FLOAT32 and _missing() is None and _quicker_than_sdpa()
    scores = batch_heads * n_q * n_k
    return min(n_q, n_k) >= LEAST_TOKENS and scores >= LEAST_SCORES * torch.get_num_threads()


_tiles = functools.partial(kernel, devices=CPU, bias=additive_bias, dead_rows=True)
HALF_ERROR = dict.fromkeys((torch.bfloat16, torch.float32), 3e-2)
ERROR = HALF_ERROR | {torch.float32: 1e-5}


@_tiles("cpu_tiled", dtypes=frozenset(ERROR), tolerance=ERROR, limit=_limit_of_both, pays=_pays)
def cpu_tiled(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Compute attention in tiles on a CPU: (b, n, heads * d) in and out, float32 or bfloat16.

    Compiled tiles sum in float32, eager ones round their scores to bfloat16. Gradients are not computed.
    """
    compiled = q.dtype is torch.float32 or _compiled()
    return _attend(compiled_tiles if compiled else eager_tiles, q, k, v, bias, scale)


@_tiles("cpu_bf16", dtypes=frozenset({torch.float32}), exact=False, tolerance=HALF_ERROR, limit=_limit)
def cpu_bf16(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Compute the attention of a model in float32 from q, k, v in bfloat16: (b, n, heads * d) in and out."""
    q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    return _attend(compiled_tiles if _compiled() else eager_tiles, q, k, v, bias, scale)


attention_cpu_tiled = cpu_tiled.function
attention_cpu_bf16 = cpu_bf16.function


def _attend(tiles: Tiles, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    factor = LOG2_E * (q.shape[-1] ** -0.5 if scale is None else scale)
    return tiles.attend(q, k, v, None if bias is None else _exponents(bias), factor)


def _exponents(bias: Tensor) -> Tensor:
    """Return an additive mask in powers of two, in float32; only what is -inf already shuts a key out."""
    finite = (bias.float() * LOG2_E).clamp(min=LOWEST)
    return finite.masked_fill(bias == -math.inf, -math.inf)


def _missing() -> str | None:
    """Return why no compiled tiles can run now; None if they can."""
    return "are no part of what torch.compile makes" if torch.compiler.is_compiling() else compiled_tiles.missing()


def _compiled() -> bool:
    return _missing() is None and _quicker()


@functools.cache
def _quicker() -> bool:
    """Return whether compiled tiles take less time than eager ones on this machine, in bfloat16."""
    seconds = compiled_tiles.kept("seconds", ("compiled", "eager"), _seconds)
    return seconds["compiled"] < seconds["eager"]


@functools.cache
def _quicker_than_sdpa() -> bool:
    """Return whether compiled tiles take less time than torch's fused kernel on this machine, in float32."""
    seconds = compiled_tiles.kept("float32", ("compiled", "sdpa"), _seconds_float32)
    return seconds["compiled"] < seconds["sdpa"]


def _seconds() -> dict[str, float]:
    return _timed(torch.bfloat16, {"compiled": _of(compiled_tiles), "eager": _of(eager_tiles)})


def _seconds_float32() -> dict[str, float]:
    return _timed(
        torch.float32, {"compiled": _of(compiled_tiles), "sdpa": lambda x: scaled_dot_product_attention(x, x, x)}
    )


def _of(tiles: Tiles) -> Callable[[Tensor], Tensor]:
    return lambda x: tiles.attend(x, x, x, None, 1.0)


def _timed(dtype: torch.dtype, contenders: Mapping[str, Callable[[Tensor], Tensor]]) -> dict[str, float]:
    """Time some functions on one call, in turns."""
    x = torch.randn(TRIED, generator=torch.Generator().manual_seed(0)).to(dtype)
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, function in contenders.items():
            start = time.perf_counter()
            function(x)
            taken[name].append(time.perf_counter() - start)
    return {name: min(some) for name, some in taken.items()}
