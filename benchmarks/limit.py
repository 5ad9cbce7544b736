"""The least time a step could take on a CPU: its products at the speed of a large one, and attention's exponentials.

A limit is what the machine can do at most. So a speed is that of the fastest of about a second of rounds, by processor
time of one thread on its core, as other work makes the rest slower, and times the threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from attention_patchbay.ldm_patched.patches.engine.given import given
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

LARGE, CACHED, TIMES = 1024, 2**16, 64
SECONDS = 1.0  # of rounds
Clock = Callable[[], float]
Attention = Callable[..., Tensor]


class Speed(NamedTuple):
    """What a machine does in a second: floating-point operations of a large product, and exponentials in the cache."""

    products: float
    exponentials: float

    def text(self) -> str:
        """Return the speed for reading."""
        return (
            f"{self.products / 1e9:.0f} GFLOP/s in products, {self.exponentials / 1e9:.2f} G/s exponentials in float32"
        )


class Work(NamedTuple):
    """What a step consists of: floating-point operations of products, two for each multiplication, and exponentials."""

    products: float
    exponentials: float

    def seconds(self, speed: Speed) -> float:
        """Return the time of the work at a speed."""
        return self.products / speed.products + self.exponentials / speed.exponentials


def best_speed(dtype: torch.dtype) -> Speed:
    """Return the speed of a dtype, or of float32 where the machine is faster in it, as one without units for it is."""
    return max(map(speed_of, {torch.float32, dtype}))


def speed_of(dtype: torch.dtype, seconds: float = SECONDS) -> Speed:
    """Measure the speed of this machine with the threads torch has now; exponentials are always in float32."""
    threads = torch.get_num_threads()
    a, b = torch.randn(2, LARGE, LARGE).to(dtype)
    x = -torch.rand(CACHED)
    out = torch.empty_like(x)
    torch.set_num_threads(1)  # as several wait for each other where other work has a core
    try:
        product = fastest(lambda: a @ b, seconds)
        exponentials = fastest(lambda: [torch.exp2(x, out=out) for _ in range(TIMES)], seconds)
    finally:
        torch.set_num_threads(threads)
    return Speed(threads * 2 * LARGE**3 / product, threads * TIMES * CACHED / exponentials)


def fastest(call: Callable[[], object], seconds: float, clock: Clock = time.thread_time) -> float:
    """Return the least time of a call by a clock, of as many rounds as fit into some seconds, at least one."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        begin = clock()
        call()
        taken.append(clock() - begin)
    return min(taken)


def work_of(step: Callable[[Attention], object]) -> Work:
    """Count the work of a step, which is given the attention override that it has to compute with.

    Attentions are counted in full and not computed, whatever function they would take.
    """
    products = exponentials = 0.0

    def attention(_: Attention, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal products, exponentials
        call = given(args, kwargs)
        rows, d = call.q.shape[:3], call.v.shape[3]  # (b, h, n), dim_head
        scores = rows.numel() * call.k.shape[2]
        products += 2.0 * scores * (call.q.shape[3] + d)
        exponentials += scores
        out = call.q.new_zeros(*rows, d)
        return out if call.split else out.transpose(1, 2).flatten(2)  # (b, n, h * d)

    with FlopCounterMode(display=False) as counter:
        step(attention)
    return Work(products + counter.get_total_flops(), exponentials)
