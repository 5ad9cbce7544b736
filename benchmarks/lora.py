"""Time a step with LoRAs beside weights and in regions, against patched weights, on a random UNet of SD1.5's layout.

    python benchmarks/lora.py [--channels 320] [--side 32] [--rounds 3]

A step predicts both prompts. All contenders run in turn, round after round, in one process; the time is that of one
thread on its core, which other work on the machine moves little. The least and the median are printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from attention_patchbay.ldm_patched.files.lora import load_lora, unet_names
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.modules.weight_hooks import Hook, Hooks, Keyframes, WeightChange
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile, lora_on
from attention_patchbay.ldm_patched.patches.methods.region_lora import RegionLora
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig
from attention_patchbay.tests.contract.lora_demo import random_lora
from command_line import count, run
from torch import Tensor

UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "use_spatial_transformer": True,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "legacy": False,
}
Conds = list[list[Any]]
RULES = "input:1 -> 0.1; input:2 -> 0.2; middle -> 0.4; output:3 0-50% -> 1; output:5 0-20% -> 0.3; * -> 1"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=partial(count, multiple=32), default=320)
    parser.add_argument("--side", type=partial(count, multiple=8), default=32)
    parser.add_argument("--rounds", type=count, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = MODEL_CLASSES["sd1"](ModelConfig("sd1", {**UNET, "model_channels": args.channels}), operations=plain)
    models = contenders(lambda: ModelPatcher(net, "cpu", "cpu"), args.side)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.rounds):
        for name, (model, positive) in models.items():
            taken[name] += steps(model, positive, args.side)
    base = min(taken["no LoRA"])
    print(f"{sum(one.numel() for one in net.parameters()) / 1e6:.0f} M weights, {args.side}x{args.side}")  # noqa: T201
    for name, times in taken.items():
        found = f"{1e3 * min(times):9.1f} {1e3 * statistics.median(times):9.1f} {min(times) / base:6.2f}"
        print(f"{name:42s} {found}")  # noqa: T201


def contenders(patcher: Callable[[], Any], side: int) -> dict[str, tuple[Any, Conds]]:
    """Return the models to time, with their positive prompts."""
    inside = random_lora(patcher(), lambda path: "transformer_blocks" in path or "proj_" in path, rank=16)
    whole = random_lora(patcher(), rank=16)

    def weights(file: dict[str, Tensor]) -> Any:
        model = patcher().clone()
        model.add_patches(load_lora(file, unet_names(model.model.state_dict()))[0], 1.0)
        return model

    def rules(file: dict[str, Tensor], text: str) -> Any:
        lora = lora_on(patcher(), LoraFile.of("style", file), Host().weights(patcher()))
        return attach(patcher(), LoraRules(lora, parse_strengths(text), 1.0, Where()))

    def regions(count: int, *loras: RegionLora) -> Any:
        parts = enumerate(masks(count, side))
        some = tuple(Region(prompt(9 + i)[0][0], mask, loras=loras) for i, mask in parts)
        return attach(patcher(), RegionalPrompt(some))

    def passes(count: int) -> tuple[Any, Conds]:
        given = [{"mask": mask, "hooks": hooked(inside)} for mask in masks(count, side)]
        return patcher(), [[prompt(9 + i)[0][0], part] for i, part in enumerate(given)]

    one = RegionLora(LoraFile.of("style", inside))
    models = {
        "no LoRA": patcher(),
        "transformers, patched weights": weights(inside),
        "transformers, * -> 1": rules(inside, "* -> 1"),
        "transformers, six rules": rules(inside, RULES),
        "all layers, patched weights": weights(whole),
        "all layers, * -> 1": rules(whole, "* -> 1"),
        "2 regions": regions(2),
        "2 regions, a LoRA each": regions(2, one),
        "4 regions": regions(4),
        "4 regions, a LoRA each": regions(4, one),
    }
    own = {name: (model, prompt(1)) for name, model in models.items()}
    return own | {f"{count} masked prompts, a LoRA each by hooks": passes(count) for count in (2, 4)}


def masks(count: int, side: int) -> list[Tensor]:
    """Return the masks of stripes side by side."""
    whole = torch.arange(side).expand(1, side, side) * count // side
    return [(whole == i).float() for i in range(count)]


def hooked(file: dict[str, Tensor]) -> Hooks:
    """Return a hook that changes the weights for a prompt: each prompt then has a pass of its own."""
    change = WeightChange("style", lambda on: load_lora(file, unet_names(on.model.state_dict()))[0], lambda on: {})
    return Hooks((Hook(change, Keyframes()),))


def prompt(seed: int) -> Conds:
    """Return a random conditioning."""
    return [[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed)), {}]]


def steps(model: Any, positive: Conds, side: int) -> list[float]:
    """Return the seconds of the second and third of three steps."""
    ends: list[float] = []
    noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    samplers.sample(
        model,
        noise,
        positive,
        prompt(2),
        4.0,
        3,
        "euler",
        "normal",
        1.0,
        seed=0,
        callback=lambda *_: ends.append(time.thread_time()),
    )
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]


if __name__ == "__main__":
    sys.exit(run(main))
