"""What a kernel declares, and the public attention function that is made of it.

A kernel is a function `(q, k, v, mask, scale)` of tensors (b, h, n, d), with its facts beside it:

    @kernel("flash", devices=CUDA, dtypes=HALF, max_dim_head=256, mask=False, grouped=True)
    def flash(q, k, v, mask, scale): ...

The mask is None or 4-D and broadcastable to (b, h, n_q, n_k): bool (True = attend) or added, then in the dtype of q. A
scale of None is 1 / sqrt(d).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .call import AttentionCall
from .shapes import from_heads, repeat_kv, to_heads, to_mask, zero_dead_rows
from .wrapper import AttentionFunction, wrap_attn

Kernel = Callable[..., Tensor]
Bias = Callable[[Tensor, Tensor, int], Tensor]  # of the 4-D mask, q and the number of keys

CUDA, CPU = frozenset({"cuda"}), frozenset({"cpu"})
HALF = frozenset({torch.float16, torch.bfloat16})
FLOATS = HALF | {torch.float32}
# Largest absolute error against float64 on unit-normal inputs.
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


def present() -> str | None:
    """Return that nothing is missing."""
    return None


def _no_limit(call: AttentionCall) -> str | None:
    return None


@dataclass(frozen=True)
class Backend:
    """An attention function and its declared limits.

    Args:
        devices: device types it runs on; None for every one.
        dim_heads: the only head sizes it takes; None for every one up to `max_dim_head`.
        exact: false for quantised kernels.
        tolerance: largest absolute error against float64 on unit-normal inputs.
        missing: returns why the function cannot be used on this machine, None if it can.
        limit: returns why it cannot run a call for any other reason, None if it can.
        pays: tells whether a call that leaves the choice open is large enough for it, by (b * h, n_q, n_k) and dtype;
            None for every call.
        proven: whether it has been run on the hardware that it is made for, and held against float64 there.
        hosted: where the host has found a function of this name for itself, that one runs.
    """

    name: str
    function: AttentionFunction
    devices: frozenset[str] | None = None
    dtypes: frozenset[torch.dtype] = FLOATS | {torch.float64}
    max_dim_head: int | None = None
    dim_heads: frozenset[int] | None = None
    mask: bool = True
    scale: bool = True
    gqa: bool = True
    exact: bool = True
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: EXACT, hash=False)
    missing: Callable[[], str | None] = present
    limit: Callable[[AttentionCall], str | None] = _no_limit
    pays: Callable[[int, int, int, torch.dtype], bool] | None = None
    proven: bool = True
    hosted: bool = False

    def absent(self) -> str | None:
        """Return why this function runs no call on this machine; None if it runs some."""
        if self.devices is None or "cpu" in self.devices or ("cuda" in self.devices and torch.cuda.is_available()):
            return self.missing()
        return self.missing() or f"runs on {_names(self.devices)} only"

    def reasons(self, call: AttentionCall) -> list[str]:
        """Return why this function cannot run a call; an empty list if it can."""
        found = [self.missing()]
        if self.devices is not None and call.device not in self.devices:
            found.append(f"runs on {_names(self.devices)}, not {call.device}")
        if call.dtype not in self.dtypes:
            found.append(f"takes {_names(self.dtypes)}, not {call.dtype}")
        if self.max_dim_head is not None and call.dim_head > self.max_dim_head:
            found.append(f"takes heads of {self.max_dim_head} channels at most, not {call.dim_head}")
        if self.dim_heads is not None and call.dim_head not in self.dim_heads:
            found.append(f"takes heads of {_names(self.dim_heads)} channels, not {call.dim_head}")
        if call.mask is not None and not self.mask:
            found.append("takes no mask")
        if call.scale is not None and not self.scale:
            found.append("takes no scale")
        if call.kv_heads != call.heads and not self.gqa:
            found.append("takes no grouped-query keys")
        if not call.low_precision and not self.exact:
            found.append("is quantised, and the call asks for an exact kernel")
        return [reason for reason in (*found, self.limit(call)) if reason is not None]


def _names(values: frozenset[Any]) -> str:
    return ", ".join(sorted(str(value) for value in values))


def kernel(
    name: str,
    *,
    mask: bool = True,
    bias: Bias | None = None,
    grouped: bool = False,
    upcast: bool = False,
    dead_rows: bool = False,
    **limits: Any,
) -> Callable[[Kernel], Backend]:
    """Declare a kernel by its facts; those that are not named here are fields of `Backend`.

    Args:
        bias: makes the float bias that the kernel wants in place of the mask; None where it takes bool masks too.
        grouped: whether keys and values may have fewer heads than the queries.
        upcast: whether the scores have the dtype of q, which then is the one that `score_dtype` chooses.
        dead_rows: whether the kernel itself gives zeros for queries that the mask leaves no key.
    """

    def declare(run: Kernel) -> Backend:
        function = _function(run, name, mask, bias, grouped, upcast, dead_rows)
        function.__name__ = function.__qualname__ = f"attention_{name}"
        function.__doc__, function.__module__ = run.__doc__, run.__module__
        return Backend(name, wrap_attn(function), mask=mask, **limits)

    return declare


def _function(
    run: Kernel, name: str, takes_mask: bool, bias: Bias | None, grouped: bool, upcast: bool, dead_rows: bool
) -> AttentionFunction:
    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        if mask is not None and not takes_mask:
            raise NotImplementedError(f"{name} takes no mask")
        if not skip_reshape:
            q, k, v = to_heads(q, k, v, heads, enable_gqa=enable_gqa)
        full = None if mask is None else to_mask(mask, q, k.shape[2])
        if not grouped:
            k, v = repeat_kv(k, v, q.shape[1])
        given = q.dtype
        if upcast:
            q, k, v = (x.to(score_dtype(q, attn_precision)) for x in (q, k, v))
        out = run(q, k, v, full if full is None or bias is None else bias(full, q, k.shape[2]), scale)
        if full is not None and not dead_rows:
            out = zero_dead_rows(out, full)
        if out.dtype is not given:
            out = out.to(given)
        return out if skip_output_reshape else from_heads(out)

    return attention


def score_dtype(q: Tensor, attn_precision: torch.dtype | None) -> torch.dtype:
    """Choose the dtype of the scores: float32 on request, for bfloat16, and on a CPU, whose half sums lose digits."""
    asked = attn_precision == torch.float32 or q.device.type == "cpu"
    return torch.float32 if q.dtype is torch.bfloat16 or (q.dtype is torch.float16 and asked) else q.dtype
