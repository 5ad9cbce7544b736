"""Time attention that processes of gloo share on a CPU, against one process, with one thread each.

    python benchmarks/ranks.py [--processes 1 2] [--channels 160] [--rounds 5]

Tokens that lie on the processes (`attention_ring`, `attention_all_to_all`), whole tokens on each
(`attention_over_ranks`), and a step of a random UNet of SD1.5's layout at 64x64 latents whose attention they share.
Every process waits for the others before a call and after it; the least and the median of the rounds are printed.
Not more than two processes can share the heads of both shapes.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from attention_patchbay.ldm_patched.ldm.modules.backends.dispatch import optimized_attention
from attention_patchbay.ldm_patched.ldm.modules.context_parallel import (
    Exchange,
    attention_all_to_all,
    attention_over_ranks,
    attention_ring,
)
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig
from command_line import count, deaf, run
from lora import UNET

SHAPES = {"4096 tokens, 8 heads of 40": (8, 4096, 40), "4096 tokens, 10 heads of 64": (10, 4096, 64)}
Call = Callable[[], Any]


def main() -> None:
    """Print a table for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, choices=(1, 2), nargs="+", default=[1, 2])
    channels = functools.partial(count, multiple=32)
    parser.add_argument("--channels", type=channels, default=160, help="of the UNet; SD1.5 has 320")
    parser.add_argument("--rounds", type=count, default=5)
    args = parser.parse_args()
    for world in args.processes:
        with tempfile.TemporaryDirectory() as folder:
            given = (world, f"{folder}/meeting", args.channels, args.rounds)
            with deaf():
                processes = torch.multiprocessing.spawn(rank, given, world, join=False, daemon=True)
            while not processes.join():
                pass


def rank(number: int, world: int, meeting: str, channels: int, rounds: int) -> None:
    """Time the calls of one process, and print what the first one found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=world)
    with torch.inference_mode():
        calls = {**attentions(number, world), f"a step of a UNet, {channels} channels": step(channels)}
        taken = timed(calls, rounds)
    if number == 0:
        for name, times in taken.items():
            sys.stdout.write(
                f"{world} processes  {name:52s} {1e3 * min(times):9.1f} {1e3 * statistics.median(times):9.1f} ms\n"
            )
    dist.destroy_process_group()


def attentions(number: int, world: int) -> dict[str, Call]:
    """Return the calls of attention alone: every process has the same tokens, or its part of them."""
    found: dict[str, Call] = {}
    exchange = Exchange()
    for name, (heads, tokens, d) in SHAPES.items():
        q, k, v = (torch.randn(1, tokens, heads * d, generator=torch.Generator().manual_seed(i)) for i in range(3))
        mine = [x.tensor_split(world, dim=1)[number] for x in (q, k, v)]
        whole = functools.partial(attention_over_ranks, optimized_attention, q, k, v, heads, exchange=exchange)
        found[f"over ranks: {name}"] = whole
        found[f"ring: {name}"] = functools.partial(attention_ring, *mine, heads, exchange=exchange)
        found[f"all to all: {name}"] = functools.partial(attention_all_to_all, *mine, heads, exchange=exchange)
    return found


def step(channels: int) -> Call:
    """Return a step of a UNet with guidance whose attention is shared."""
    torch.manual_seed(0)
    model = MODEL_CLASSES["sd1"](ModelConfig("sd1", {**UNET, "model_channels": channels}), operations=plain).eval()
    x, context = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    shared = functools.partial(attention_over_ranks, exchange=Exchange())
    options = {"optimized_attention_override": shared}
    return lambda: model.apply_model(x, torch.ones(2), c_crossattn=context, transformer_options=dict(options))


def timed(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Time calls in turn, after one that warms up, between two meetings of all processes."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            dist.barrier()
            begin = time.perf_counter()
            call()
            dist.barrier()
            if number:
                taken[name].append(time.perf_counter() - begin)
    return taken


if __name__ == "__main__":
    sys.exit(run(main))
