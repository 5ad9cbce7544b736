"""Time one UNet step on a GPU with each attention function, beside diffusers, on the same random float16 weights.

    python benchmarks/gpu_step.py [--model sd15] [--rounds N] [--json FILE]

SD1.5 runs at 512x512, SDXL at 1024x1024, batch 2, 77 tokens. Every contender takes a step in turn, round after round,
in one process. `ratio` is the median time over that of diffusers; `error` is relative to our own output in float32;
`peak GB` is the memory of the step's tensors without the weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from diffusers import UNet2DConditionModel
from parity_diffusers import UNETS, Tensors
from random_checkpoint import draw, shapes_of
from results import write_json
from torch import Tensor

Step = Callable[[], Tensor]
MODELS: dict[str, tuple[dict[str, Any], int, int, int]] = {  # configuration, latent, width of tokens, heads
    "sd15": (UNETS["SD1.5"], 64, 768, 8),
    "sdxl": (UNETS["SDXL base"] | {"transformer_layers_per_block": (1, 2, 10)}, 128, 2048, 10),
}


def inputs(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw what a step gets: latent `x`, `timesteps`, `context`, and for SDXL the pooled text and the sizes."""
    _, latent, width, _ = MODELS[name]
    generator = torch.Generator("cuda").manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda").to(dtype)

    found = {"x": normal(2, 4, latent, latent), "timesteps": torch.tensor([20.0, 800.0], device="cuda")}
    found["context"] = normal(2, 77, width)
    return found | ({"pooled": normal(2, 1280)} if name == "sdxl" else {})


def diffusers_step(config: dict[str, Any], weights: Tensors, given: dict[str, Tensor]) -> Step:
    """Return a step of diffusers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    unet.load_state_dict(weights, assign=True)
    unet.eval().requires_grad_(False)
    more = {}
    if "pooled" in given:
        sizes = torch.full((2, 6), 1024.0, device="cuda")
        more = {"added_cond_kwargs": {"text_embeds": given["pooled"], "time_ids": sizes}}
    return lambda: unet(given["x"], given["timesteps"], given["context"], **more).sample


def our_step(patcher: Any, given: dict[str, Tensor], backend: str | None) -> Step:
    """Return a step of ours, with a backend rule or without any."""
    if backend is not None:
        patcher = attach(patcher, Rule(backend))
    patcher.pre_run()
    unet, y = patcher.model.diffusion_model, None
    if "pooled" in given:
        sizes = torch.full((12,), 1024.0, device="cuda")
        angles = sizes[:, None] * torch.exp(-torch.arange(128, device="cuda") / 128 * torch.log(torch.tensor(10000.0)))
        y = torch.cat([given["pooled"], torch.cat([angles.cos(), angles.sin()], 1).view(2, -1).to(given["x"])], 1)
    options, plan = patcher.model_options["transformer_options"], plan_of(patcher)
    if plan is not None:  # a sampler would count the calls
        options = {**options, KEY: Run(plan)}
    return lambda: unet(given["x"], given["timesteps"], given["context"], y=y, transformer_options=options)


def ours(weights: Tensors, dtype: torch.dtype) -> Any:
    """Return our model with its weights on the GPU."""
    tensors = Tensors({key: value.to(dtype) for key, value in weights.items()})
    found = sd.find_unet(tensors, ("",))
    patcher = sd.build_unet(found, sd.config_of(found, tensors), dtype)
    patcher.model.diffusion_model.to("cuda")
    return patcher


def contenders(name: str) -> tuple[dict[str, Step], Tensor]:
    """Return the steps by name, and the output in float32."""
    config, latent, _, heads = MODELS[name]
    with torch.device("meta"):
        shapes = shapes_of(UNet2DConditionModel(**config))
    weights = Tensors(draw(shapes, torch.float16, device="cuda"))
    exact = our_step(ours(weights, torch.float32), inputs(name, torch.float32), None)()
    given, patcher = inputs(name, torch.float16), ours(weights, torch.float16)
    tokens = (latent if name == "sd15" else latent // 2) ** 2
    call = registry.AttentionCall(
        2, heads, heads, tokens, tokens, 320 // 8 if name == "sd15" else 64, torch.float16, "cuda"
    )
    steps = {"diffusers": diffusers_step(config, weights, given), "ours": our_step(patcher, given, None)}
    for backend in registry.available(call):
        if backend.name not in ("basic", "split", "sub_quad"):
            steps[f"ours, {backend.name}"] = our_step(patcher, given, backend.name)
    return steps, exact


def seconds_of(step: Step) -> tuple[float, float]:
    """Return the time of a step and the GB that it took."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end), (torch.cuda.max_memory_allocated() - before) / 1e9


@torch.inference_mode()
def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each contender."""
    steps, exact = contenders(name)
    errors = {}
    for key, step in list(steps.items()):
        try:
            for _ in range(2):  # the first calls compile and choose kernels
                out = step().float()
        except RuntimeError as error:  # a library may be built without a kernel
            print(f"{name}: {key} is left out: {error}", file=sys.stderr)
            del steps[key]
            continue
        errors[key] = float((out - exact).norm() / exact.norm())
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            times[key].append(seconds_of(step))
    print(f"{name}: {rounds} rounds", file=sys.stderr)
    medians = {key: statistics.median(ms for ms, _ in taken) for key, taken in times.items()}
    return [
        {
            "model": name,
            "contender": key,
            "ms": round(medians[key], 2),
            "ratio": round(medians[key] / medians["diffusers"], 3),
            "spread": round((max(taken)[0] - min(taken)[0]) / medians[key], 3),
            "peak GB": round(max(memory for _, memory in taken), 2),
            "error": float(f"{errors[key]:.2e}"),
        }
        for key, taken in times.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), action="append", help="default: all")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    print("| model | contender | median ms | ratio | spread | peak GB | error |\n|---|---|--:|--:|--:|--:|--:|")
    rows = []
    for name in options.model or MODELS:
        found = measure(name, options.rounds)
        torch.cuda.empty_cache()
        for row in found:
            print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
        rows += found
    if options.json is not None:
        write_json(options.json, rows)


if __name__ == "__main__":
    main()
