"""Time one UNet step of full-size SD1.5 (64x64 latent, batch 2, 77 tokens) beside diffusers, on the same weights.

    python benchmarks/unet_step.py [--rounds N] [--threads N] [--latent N] [--json FILE]

Every contender takes a step in turn, round after round, in one process. `ratio` is the median time over that of
diffusers in float32; `error` is relative to our own output in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attention_patchbay.ldm_patched.modules import sd
from diffusers import UNet2DConditionModel
from parity_diffusers import UNETS, Tensors, filled, normal
from torch import Tensor, nn

Contender = Callable[[Tensor, Tensor, Tensor], Tensor]


def contenders(dtype: torch.dtype, weights: Tensors) -> dict[str, Contender]:
    """Return our UNet and diffusers' in a dtype; in float32 both use the very same tensors."""
    tensors = Tensors({key: value.to(dtype) for key, value in weights.items()})
    with torch.device("meta"):
        theirs: nn.Module = UNet2DConditionModel(**UNETS["SD1.5"])
    theirs.load_state_dict(tensors, assign=True)
    theirs.eval().requires_grad_(False)
    found = sd.find_unet(tensors, ("",))
    ours = sd.build_unet(found, sd.config_of(found, tensors), dtype).model.diffusion_model
    name = str(dtype).removeprefix("torch.")
    return {
        f"diffusers {name}": lambda x, t, c: theirs(x.to(dtype), t, c.to(dtype)).sample,
        f"ours {name}": lambda x, t, c: ours(x.to(dtype), t, c.to(dtype)),
    }


@torch.no_grad()
def measure(rounds: int, latent: int) -> list[dict[str, Any]]:
    """Return a row for each contender."""
    _, weights = filled(lambda: UNet2DConditionModel(**UNETS["SD1.5"]))
    entrants = contenders(torch.float32, weights) | contenders(torch.bfloat16, weights)
    inputs = normal(1, 2, 4, latent, latent), torch.tensor([20.0, 800.0]), normal(2, 2, 77, 768)
    outputs = {name: step(*inputs).float() for name, step in entrants.items()}  # the first call is not timed
    times: dict[str, list[float]] = {name: [] for name in entrants}
    for number in range(rounds):
        for name, step in entrants.items():
            start = time.perf_counter()
            step(*inputs)
            times[name].append(time.perf_counter() - start)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    exact = outputs["ours float32"]
    base = statistics.median(times["diffusers float32"])
    return [
        {
            "contender": name,
            "seconds": round(statistics.median(taken), 3),
            "ratio": round(statistics.median(taken) / base, 3),
            "spread": round((max(taken) - min(taken)) / statistics.median(taken), 3),
            "error": float((outputs[name] - exact).norm() / exact.norm()),
        }
        for name, taken in times.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.rounds, options.latent)
    print(f"torch {torch.__version__}, {options.threads} threads, latent {options.latent}")
    print("| contender | median s | ratio | spread | error |\n|---|--:|--:|--:|--:|")
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()) + " |")
    if options.json is not None:
        with tempfile.NamedTemporaryFile("w", dir=options.json.parent, delete=False) as file:
            json.dump(rows, file, indent=1)
        os.replace(file.name, options.json)


if __name__ == "__main__":
    main()
