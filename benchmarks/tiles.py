"""Time compiled tiles against torch's fused kernel on a CPU, beside what products and exponentials alone take there.

    python benchmarks/tiles.py [--rounds 9] [--threads 1]

The limit of a call is the time of its products at the speed of a large matrix product, and of its exponentials at the
speed of `exp2` on numbers in the cache. Contenders run in turn, round after round, in one process; medians are printed.
With one thread the time is that of the thread on its core, which other work on the machine moves little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.compiled_tiles import attend, missing
from attention_patchbay.ldm_patched.ldm.modules.backends.cpu_tiled import LOG2_E
from command_line import count, run
from limit import Clock, Speed, Work, speed_of
from progress import Progress
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

HEADS, DIMS = 4, (40, 64, 80, 128)
TOKENS = ((4096, 4096), (1024, 1024), (4096, 77))  # of the queries and the keys
CPU_INFO = "/proc/cpuinfo"
Call = Callable[[], Tensor]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, default=9)
    parser.add_argument("--threads", type=count, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    with Progress("compiling the tiles, once on a machine") as progress, torch.inference_mode():
        reason = missing()
        if reason is not None:
            raise SystemExit(f"no compiled tiles here: it {reason}")
        capability = torch.backends.cpu.get_cpu_capability()
        progress.print(f"{cpu()}, {capability}, torch {torch.__version__}, {args.threads} threads")
        for line in lines(args.rounds, clock, progress):
            progress.print(line)


def cpu() -> str:
    """Return what the machine calls its processor."""
    with open(CPU_INFO) as file:
        told = dict(line.strip().split("\t", 1) for line in file if "\t" in line)
    return ", ".join(
        f"{name} {told.get(name, '?').lstrip(chr(9) + ': ')}" for name in ("model name", "cpu family", "model")
    )


def lines(rounds: int, clock: Clock, progress: Progress) -> Iterator[str]:
    """Yield the table, a line at a time."""
    best = Speed(0.0, 0.0)
    for dtype in (torch.float32, torch.bfloat16):
        progress.doing = f"the limit in {dtype}"
        own = speed_of(dtype)
        best = max(best, own)  # tiles multiply in float32 where bfloat16 has no units
        yield f"\n{dtype}: {own.text()}\n"
        yield "| heads of | queries, keys | SDPA ms | tiles ms | tiles / SDPA | limit / SDPA |"
        yield "|--:|---|--:|--:|--:|--:|"
        for d in DIMS:
            for n_q, n_k in TOKENS:
                progress.doing = f"{dtype}, heads of {d}, {n_q} queries, {n_k} keys"
                sdpa, tiles = medians(contenders(d, n_q, n_k, dtype), rounds, clock)
                scores = HEADS * n_q * n_k
                limit = Work(4 * scores * d, scores).seconds(best)
                numbers = f"{1e3 * sdpa:.1f} | {1e3 * tiles:.1f} | {tiles / sdpa:.2f} | {limit / sdpa:.2f}"
                yield f"| {d} | {n_q}, {n_k} | {numbers} |"


def medians(calls: dict[str, Call], rounds: int, clock: Clock) -> list[float]:
    """Return the median seconds of some calls, in turn, after one round that warms up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begin = clock()
            call()
            if number:
                taken[name].append(clock() - begin)
    return [statistics.median(times) for times in taken.values()]


def contenders(d: int, n_q: int, n_k: int, dtype: torch.dtype) -> dict[str, Call]:
    """Return torch's kernel and the tiles on a call (1, HEADS, n, d)."""
    q, k, v = (
        torch.randn(1, HEADS, n, d, generator=torch.Generator().manual_seed(i)).to(dtype)
        for i, n in enumerate((n_q, n_k, n_k))
    )
    factor = LOG2_E * d**-0.5
    return {"sdpa": lambda: scaled_dot_product_attention(q, k, v), "tiles": lambda: attend(q, k, v, None, factor)}


if __name__ == "__main__":
    sys.exit(run(main))
