"""Measure what methods cost in one joint attention of a Flux-like transformer.

    python benchmarks/joint_attention.py [ROUNDS]

4,096 tokens of picture and 512 of text, 24 heads of 128 channels, float32 on the CPU: medians of milliseconds a call.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.engine.positions import POSITIONS, TURNS
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from command_line import count, run
from torch import Tensor

SIDE, TEXT, HEADS, DIM = 64, 512, 24, 128
TOTAL = SIDE * SIDE + TEXT
METHODS: Mapping[str, Method | None] = {
    "no method": None,
    "inactive: values of another time": AttentionPatch("attn1.v", "scale", 2.0, where=Where.of("all", 1.0, 1.0)),
    "values of the picture times 2": AttentionPatch("attn1.v", "scale", 2.0),
    "mean of the queries, before their positions": AttentionPatch("attn1.q", "mean", strength=0.5),
    "a word left out": WordWeight(weight=0.0, positions=(3,), length=TEXT),
}


class Flux(torch.nn.Module):
    """What is known of a network by its class: two lists of blocks."""

    def __init__(self) -> None:
        super().__init__()
        block = torch.nn.Module()
        block.num_heads, block.head_dim = HEADS, DIM  # type: ignore[assignment]
        self.double_blocks, self.single_blocks = torch.nn.ModuleList([block]), torch.nn.ModuleList()


def options_of(method: Method | None) -> dict[str, Any]:
    """Return the options of a call with a method, as they reach a block."""
    if method is None:
        return {}
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent)
    whole: Any = SimpleNamespace(diffusion_model=Flux(), model_sampling=sampling)
    model = attach(ModelPatcher(whole, "cpu", "cpu", size=1), method)
    run = Run(plan_of(model), lambda percent: 1.0 - percent)
    turns = torch.eye(2).expand(1, 1, TOTAL, DIM // 2, 2, 2)
    call = {KEY: run, TOKENS: Tokens(FAMILIES["Flux"], (1, SIDE, SIDE)), POSITIONS: {TURNS: turns}}
    block = {"block_type": "double", "block_index": 0, "cond_or_uncond": [0], "sigmas": torch.ones(1)}
    return {**model.model_options["transformer_options"], **call, **block}


def milliseconds(options: dict[str, Any], given: list[Tensor]) -> float:
    """Return how long one call takes."""
    kwargs = {"skip_reshape": True, "transformer_options": options}
    begin = time.perf_counter()
    if SLOT in options:
        options[SLOT](attention_pytorch, *given, HEADS, **kwargs)
    else:
        attention_pytorch(*given, HEADS, **kwargs)
    return 1000.0 * (time.perf_counter() - begin)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=count, nargs="?", default=7)
    rounds = parser.parse_args().rounds
    given = [torch.randn(1, HEADS, TOTAL, DIM, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2, 3)]
    options = {name: options_of(method) for name, method in METHODS.items()}
    took: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(rounds + 1):  # in turn, as the load of a machine changes; the first is warming up
        for name in METHODS:
            took[name].append(milliseconds(options[name], given))
    medians = {name: statistics.median(times[1:]) for name, times in took.items()}
    print("| | ms a call | times no method |\n| --- | --- | --- |")
    for name, median in medians.items():
        print(f"| {name} | {median:.0f} | {median / medians['no method']:.2f} |")


if __name__ == "__main__":
    sys.exit(run(main))
