"""Tuning: time every capable attention function on the calls that a model makes."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ldm.modules.backends import registry
from ...ldm.modules.backends.basic import attention_basic
from ...ldm.modules.backends.registry import AttentionCall, Backend

ROUNDS = 101
SAMPLED_ROWS = 64  # queries whose result is compared with float64; rows of attention do not depend on each other
Check = Callable[[], None]  # raises when the host wants to stop
log = logging.getLogger(__name__)


class Timing(NamedTuple):
    """One attention function on one call: median seconds, largest absolute error against float64."""

    backend: str
    seconds: float
    error: float


@dataclass(frozen=True)
class Tuned:
    """What was measured for one call; `timings` from the fastest to the slowest."""

    call: AttentionCall
    timings: tuple[Timing, ...]

    def best(self, bound: float) -> Timing | None:
        """Return the fastest function whose error keeps the bound, None if there is none."""
        return next((timing for timing in self.timings if timing.error <= bound), None)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row of plain values for each function, with its call."""
        call = str(self.call)
        return [
            {"call": call, "function": timing.backend, "seconds": timing.seconds, "error": timing.error}
            for timing in self.timings
        ]


def candidates(call: AttentionCall) -> list[Backend]:
    """Return the functions to time on a call: all that can run it but `basic`, by which errors are measured."""
    return [backend for backend in registry.available(call) if backend.name != "basic"]


def tune(call: AttentionCall, seconds: float, check: Check) -> Tuned:
    """Time the candidates on random tensors of a call's shape, in turns, for about `seconds`.

    A function that fails is left out, with a warning.
    """
    q, k, v, mask = tensors(call)
    truth = exact_rows(call, q, k, v, mask)
    errors, runs = {}, {}
    for backend in candidates(call):
        run = _runner(backend, call, q, k, v, mask)
        try:
            errors[backend.name] = row_error(call, run(), truth)  # this is the warm-up too
        except Exception as error:  # a kernel may be built wrongly; what is measured tells which can be used
            log.warning("Attention Patchbay: %s failed on %s and is left out: %s", backend.name, call, error)
        else:
            runs[backend.name] = run
        check()
    times = _interleaved(runs, q.device, seconds, check)
    timings = [Timing(name, statistics.median(taken), errors[name]) for name, taken in times.items()]
    return Tuned(call, tuple(sorted(timings, key=lambda timing: timing.seconds)))


def tensors(call: AttentionCall) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return unit-normal q, k, v (b, heads, n, dim_head) of a call, and a mask that hides a quarter of the keys."""
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int, tokens: int) -> Tensor:
        x = torch.randn(call.b, heads, tokens, call.dim_head, generator=generator)
        return x.to(device=call.device, dtype=call.dtype)

    q, k, v = draw(call.heads, call.n_q), draw(call.kv_heads, call.n_k), draw(call.kv_heads, call.n_k)
    if call.mask is None:
        return q, k, v, None
    shown = torch.rand(call.n_q, call.n_k, generator=generator).to(call.device) > 0.25
    if call.mask == torch.bool:
        return q, k, v, shown
    return q, k, v, torch.zeros(shown.shape, dtype=call.mask, device=call.device).masked_fill(~shown, -10.0)


def exact_rows(call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return the result of some queries in float64: (b, heads, rows, dim_head)."""
    rows = sampled(call.n_q).to(q.device)
    part = None if mask is None else mask[rows]
    part = part.double() if part is not None and part.is_floating_point() else part
    wide = (x.double() for x in (q[:, :, rows], k, v))
    return attention_basic(*wide, call.heads, part, **_settings(call))


def sampled(queries: int) -> Tensor:
    """Return the numbers of some of so many queries, spread over all of them."""
    return torch.linspace(0, queries - 1, min(queries, SAMPLED_ROWS)).long()


def row_error(call: AttentionCall, out: Tensor, truth: Tensor) -> float:
    """Return the largest absolute error of the compared rows of a result (b, heads, n, dim_head); infinite for NaN."""
    rows = out[:, :, sampled(call.n_q).to(out.device)].double()
    return (rows - truth).abs().nan_to_num(nan=float("inf")).max().item()


def _settings(call: AttentionCall) -> dict[str, Any]:
    given: dict[str, Any] = {"skip_reshape": True, "skip_output_reshape": True}
    if call.scale is not None:
        given["scale"] = call.scale
    return given | ({"enable_gqa": True} if call.enable_gqa else {})


def _runner(
    backend: Backend, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> Callable[[], Tensor]:
    settings = _settings(call)
    return lambda: backend.function(q, k, v, call.heads, mask, **settings)


def _interleaved(
    runs: Mapping[str, Callable[[], Tensor]], device: torch.device, seconds: float, check: Check
) -> dict[str, list[float]]:
    """Time each function in turns until the time is over or ROUNDS are done, at least once.

    In turns, so that a machine that gets slower meanwhile slows all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for done in range(ROUNDS):
        for name, run in runs.items():
            if done and time.perf_counter() > end:
                return times
            times[name].append(_seconds(run, device))
            check()
    return times


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begin


# The table


def tuning_table(tuned: Iterable[Tuned], bound: float) -> str:
    """Return what was measured for reading: each call, and its functions from the fastest to the slowest."""
    return "\n\n".join("\n".join(_lines(one, bound)) for one in tuned)


def _lines(one: Tuned, bound: float) -> list[str]:
    best, automatic = one.best(bound), registry.select(one.call).backend.name
    lines = [str(one.call)]
    for timing in one.timings:
        remarks = [remark for remark, holds in _remarks(timing, best, automatic, bound).items() if holds]
        text = f"  {timing.backend:<18} {1e3 * timing.seconds:10.3f} ms   error {timing.error:.1e}"
        lines.append(text + (f"   {', '.join(remarks)}" if remarks else ""))
    return lines


def _remarks(timing: Timing, best: Timing | None, automatic: str, bound: float) -> dict[str, bool]:
    return {
        "fastest within the bound": timing == best,
        "auto": timing.backend == automatic,
        "too inexact": timing.error > bound,
    }
