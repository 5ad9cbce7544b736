"""Sample on two devices with ComfyUI's own threads: `threads_child.py RESULT.json`, with both on PYTHONPATH.

Both devices are the CPU, under two names, with a network each. The result holds the difference from a run on one.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import torch

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.supported_models  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading.report import text  # noqa: E402
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE  # noqa: E402
from attention_patchbay.ldm_patched.patches.record.plan import plan_of  # noqa: E402
from attention_patchbay.ldm_patched.patches.record.run import Run  # noqa: E402
from attention_patchbay.ldm_patched.patches.routing.rule import Rule  # noqa: E402
from attention_patchbay.nodes import _host  # noqa: E402
from attention_patchbay.tests.unets import FLAT as UNET  # noqa: E402

assert _host.found.__name__.endswith("_comfyui")
VALUES = [
    AttentionPatch("attn1.out", "identity", strength=0.5, where=Where.of("middle")),
    AttentionPatch("attn2.k", "mean", strength=0.5, where=Where.of("all", 0.0, 0.7, "linear")),
    Rule("basic", Where.of("all self")),
    PerturbedGuidance(scale=1.0, where=Where.of("output:0", 0.0, 0.6)),
]
generator = torch.Generator().manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def network(state: dict[str, torch.Tensor] | None = None) -> Any:
    config = comfy.supported_models.SD15(UNET)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    if state is None:
        for parameter in model.diffusion_model.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=generator)
        state = model.diffusion_model.state_dict()
    model.diffusion_model.load_state_dict(state)
    return model


def sample(patcher: Any) -> torch.Tensor:
    settings = (4, 4.0, "euler", "normal", POSITIVE, NEGATIVE, torch.zeros(1, 4, 8, 8))
    return comfy.sample.sample(patcher, NOISE, *settings, disable_pbar=True, seed=0)


def recorded(patcher: Any) -> tuple[torch.Tensor, Run]:
    samples = sample(patcher)
    return samples, ARCHIVE.find(samples, plan_of(patcher))  # at once: another run may give the same latent


POSITIVE, NEGATIVE, NOISE = [[randn(1, 7, 16), {}]], [[randn(1, 7, 16), {}]], randn(1, 4, 8, 8)
first = network()
second = network(first.diffusion_model.state_dict())
cpu, other = torch.device("cpu"), torch.device("cpu", 0)
threads: set[str] = set()


def watch(executor: Any, *args: Any, **kwargs: Any) -> Any:
    threads.add(threading.current_thread().name)
    return executor(*args, **kwargs)


def patched() -> Any:
    model = comfy.model_patcher.ModelPatcher(first, cpu, cpu)
    model.add_wrapper("apply_model", watch)
    for value in VALUES:
        model = attach(model, value, _host.HOST)
    return model


alone, both = patched(), patched()
clone = comfy.model_patcher.ModelPatcher(second, other, cpu)
clone.is_multigpu_base_clone = True
both.set_additional_models("multigpu", [clone])
with torch.inference_mode():
    results = [recorded(alone)]
    before, threads = threads, set()
    results += [recorded(both), recorded(both)]
outputs, runs = zip(*results, strict=True)
uses = [sorted(run.patched.items()) for run in (runs[0], runs[-1])]
record = {
    "threads": [len(before), len(threads)],
    "difference": ((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()).item(),
    "again": torch.equal(outputs[1], outputs[2]),
    "uses": [{f"{number} {block}": count for (number, block), count in counts} for counts in uses],
    "text": text(runs[-1]),
}
Path(result).write_text(json.dumps(record))
