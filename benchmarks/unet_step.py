"""Time one UNet step of full-size SD1.5 (64x64 latent, batch 2, 77 tokens) beside diffusers, on the same weights.

    python benchmarks/unet_step.py [--rounds N] [--threads N] [--latent N] [--dtypes D ...] [--json FILE]

Every contender takes a step in turn, round after round, in one process. `ratio` is the median time over that of
diffusers in the first dtype; `times least` is over the least time of the dtype here, that of all products at the speed
of a large one and of attention's exponentials; `error` is relative to our own output in the first dtype. `peak GB` is
the resident memory of a process of its own that holds only this contender and takes one step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from command_line import count, deaf, new_file, run
from diffusers import UNet2DConditionModel
from limit import best_speed, work_of
from parity_diffusers import UNETS, filled, normal
from progress import Progress
from random_checkpoint import Tensors
from results import write_json
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Contender = Callable[..., Tensor]  # of a latent, times and a context
DTYPES = ("float32", "bfloat16")


def contender(name: str, weights: Tensors) -> Contender:
    """Return the UNet of a name."""
    maker, dtype_name = name.split()
    dtype = getattr(torch, dtype_name)
    tensors = Tensors({key: value.to(dtype) for key, value in weights.items()})
    if maker == "ours":
        found = sd.find_unet(tensors, ("",))
        ours = sd.build_unet(found, sd.config_of(found, tensors), dtype).model.diffusion_model
        return lambda x, t, c, **options: ours(x.to(dtype), t, c.to(dtype), **options)
    with torch.device("meta"):
        theirs: nn.Module = UNet2DConditionModel(**UNETS["SD1.5"])
    theirs.load_state_dict(tensors, assign=True)
    theirs.eval().requires_grad_(False)
    return lambda x, t, c: theirs(x.to(dtype), t, c.to(dtype)).sample


def inputs(latent: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a latent, times and a context."""
    return normal(1, 2, 4, latent, latent), torch.tensor([20.0, 800.0]), normal(2, 2, 77, 768)


@torch.no_grad()
def peak_memory(name: str, latent: int, file: str) -> int:
    """Return the peak of this process's resident bytes after one step of a contender."""
    dtype = getattr(torch, name.split()[1])
    if name.startswith("ours"):
        unet = sd.load_unet(file, dtype).model.diffusion_model
        unet(*(x.to(dtype) for x in inputs(latent)))
    else:
        contender(name, Tensors(load_file(file)))(*inputs(latent))
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def tell_peak(to: Connection, name: str, latent: int, file: str) -> None:
    """Send the peak of this process."""
    to.send(peak_memory(name, latent, file))


def peaks(names: list[str], weights: Tensors, latent: int, progress: Progress) -> dict[str, float]:
    """Return the peak memory of every contender in GB, each in a process of its own, with weights of its dtype."""
    found = {}
    processes = multiprocessing.get_context("spawn")
    for name in names:
        progress.doing = f"the peak memory of {name}"
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/weights.safetensors"
            dtype = getattr(torch, name.split()[1])
            save_file({key: value.to(dtype) for key, value in weights.items()}, file)
            mine, its = processes.Pipe(duplex=False)
            with deaf():
                processes.Process(target=tell_peak, args=(its, name, latent, file), daemon=True).start()
            its.close()  # so that a process that dies is the end of what can be received
            found[name] = mine.recv() / 1e9
    return found


@torch.no_grad()
def measure(rounds: int, latent: int, dtypes: list[str], progress: Progress) -> list[dict[str, Any]]:
    """Return a row for each contender."""
    _, weights = filled(lambda: UNet2DConditionModel(**UNETS["SD1.5"]))
    names = [f"{maker} {dtype}" for dtype in dtypes for maker in ("diffusers", "ours")]
    memory = peaks(names, weights, latent, progress)
    progress.doing = "building the UNets, and a first step of each"
    entrants = {name: contender(name, weights) for name in names}
    arguments = inputs(latent)
    outputs = {name: step(*arguments).float() for name, step in entrants.items()}  # the first call is not timed
    times: dict[str, list[float]] = {name: [] for name in entrants}
    for number in range(rounds):
        for name, step in entrants.items():
            progress.doing = f"round {number + 1} of {rounds}: {name}"
            start = time.perf_counter()
            step(*arguments)
            times[name].append(time.perf_counter() - start)
    progress.doing = "the least time"
    exact = outputs[f"ours {dtypes[0]}"]
    work = work_of(lambda attention: entrants[f"ours {dtypes[0]}"](*arguments, transformer_options={SLOT: attention}))
    least = {dtype: work.seconds(best_speed(getattr(torch, dtype))) for dtype in dtypes}
    base = statistics.median(times[f"diffusers {dtypes[0]}"])
    return [
        {
            "contender": name,
            "seconds": round(statistics.median(taken), 3),
            "ratio": round(statistics.median(taken) / base, 3),
            "times least": round(statistics.median(taken) / least[name.split()[1]], 3),
            "spread": round((max(taken) - min(taken)) / statistics.median(taken), 3),
            "peak GB": round(memory[name], 2),
            "error": float((outputs[name] - exact).norm() / exact.norm()),
        }
        for name, taken in times.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    parser.add_argument("--latent", type=partial(count, multiple=8), default=64)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--json", type=new_file, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with Progress("drawing random weights") as progress:
        rows = measure(options.rounds, options.latent, options.dtypes, progress)
    print(f"torch {torch.__version__}, {options.threads} threads, latent {options.latent}")
    print("| contender | median s | ratio | times least | spread | peak GB | error |\n|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()) + " |")
    if options.json is not None:
        write_json(options.json, rows)


if __name__ == "__main__":
    sys.exit(run(main))
