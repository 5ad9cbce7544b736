"""Sample a UNet whose layers prefer a stand-in kernel, in ComfyUI: `preferred_child.py RESULT.json`.

The result says, for each way of the pack, how many calls the kernel got in containers and plain, and how far the latent
is from that of no node; None where this ComfyUI knows no preferences.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.ldm.modules.attention as attention  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.host import Host  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading import report  # noqa: E402
from attention_patchbay.ldm_patched.patches.routing.nan_guard import Sentinel  # noqa: E402
from attention_patchbay.ldm_patched.patches.routing.rule import Rule  # noqa: E402
from attention_patchbay.nodes import _comfyui  # noqa: E402
from attention_patchbay.tests.unets import UNET, draw  # noqa: E402

seen = {"containers": 0, "tensors": 0}


@attention.wrap_attn
def stand_in(q: Any, k: Any, v: Any, heads: int, **kwargs: Any) -> torch.Tensor:
    """Compute attention a little weaker, as a kernel of another exactness would."""
    seen["tensors"] += 1
    return attention.attention_pytorch(q, k, v, heads, **kwargs) * 0.9


def contained(q: Any, k: Any, v: Any, heads: int, **kwargs: Any) -> torch.Tensor:
    seen["containers"] += 1
    return attention.attention_pytorch(q.take(), k.take(), v.take(), heads, **kwargs) * 0.9


def unet() -> Any:
    """Build the model, with the kernel in every layer as a checkpoint brings it."""
    config = comfy.supported_models.SD15({**UNET, "adm_in_channels": None, "use_temporal_attention": False})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for layer in model.modules():
        if isinstance(layer, attention.ComfyAttention):
            layer.function = stand_in
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def run(model: Any) -> torch.Tensor:
    seen.update(containers=0, tensors=0)
    prompts = ([[draw(seed, 1, 5, 16), {}]] for seed in (1, 2))
    shape = (1, 4, 8, 8)
    zeros = torch.zeros(shape)
    return comfy.sample.sample(
        model, draw(0, *shape), 1, 2.0, "euler", "simple", *prompts, zeros, seed=0, disable_pbar=True
    )


def found() -> dict[str, Any]:
    stand_in.container_function = contained
    base, host = unet(), Host(attend=_comfyui.attend)
    plain = run(base)
    results: dict[str, Any] = {"no node": [*seen.values(), 0.0]}
    middle = Where.of("middle")
    ways: dict[str, Any] = {
        "neutral patch": AttentionPatch("attn1.out", "scale", 1.0, where=middle),
        "guard off": Sentinel("off"),
        "guard": Sentinel("check"),
        "patch": AttentionPatch("attn1.out", "scale", 2.0, where=middle),
        "rule": Rule("basic", middle),
        "guidance": PerturbedGuidance(where=middle),
    }
    for name, method in ways.items():
        model = attach(base, method, host)
        out = run(model)
        results[name] = [*seen.values(), (out - plain).abs().max().item(), report.report(model, out).text]
    return results


Path(result).write_text(json.dumps(found() if hasattr(attention, "ComfyAttention") else None))
