"""Run calls with ComfyUI's attention functions and ours: `attention_child.py RESULT.json`, with both on PYTHONPATH.

The result holds the largest absolute difference of every pairing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.ops  # noqa: E402
from attention_patchbay.ldm_patched.ldm.modules.backends import dispatch, registry  # noqa: E402
from comfy.ldm.modules import attention as comfy_attention  # noqa: E402

OURS = {name: registry.get(name).function for name in ("basic", "sub_quad", "split", "pytorch")}
THEIRS = {name: getattr(comfy_attention, f"attention_{name}") for name in OURS}

generator = torch.Generator().manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def calls():
    """Yield (name, positional arguments, keyword arguments) of calls that both sides must compute alike."""
    q, k, v = randn(2, 30, 6 * 40), randn(2, 17, 6 * 40), randn(2, 17, 6 * 40)
    heads = tuple(t.view(2, -1, 6, 40).transpose(1, 2) for t in (q, k, v))
    yield "plain", (q, k, v, 6), {}
    for shape in ((30, 17), (2, 30, 17), (1, 1, 30, 17), (2, 6, 30, 17)):
        yield f"mask {shape}", (q, k, v, 6, randn(*shape)), {}
    yield "mask by keyword", (q, k, v, 6), {"mask": randn(30, 17)}
    yield "scale", (q, k, v, 6), {"scale": 0.3}
    yield "split heads in", (*heads, 6), {"skip_reshape": True}
    yield "split heads out", (q, k, v, 6), {"skip_output_reshape": True}
    yield "split heads", (*heads, 6), {"skip_reshape": True, "skip_output_reshape": True, "mask": randn(30, 17)}
    yield "grouped", (q, k[..., :80], v[..., :80], 6), {"enable_gqa": True}
    grouped = (heads[0], heads[1][:, :3], heads[2][:, :3], 6)
    yield "grouped heads", grouped, {"enable_gqa": True, "skip_reshape": True}
    yield "precision", (q, k, v, 6), {"attn_precision": torch.float32, "low_precision_attention": False}
    # HyperTile folds tiles into the batch of q alone.
    yield "tiles", (q.reshape(4, 15, 240), randn(2, 16, 240), randn(2, 16, 240), 6), {}


def through(function):
    """Return transformer_options whose override runs `function` in place of the host's."""
    return {"optimized_attention_override": lambda func, *args, **kwargs: function(*args, **kwargs)}


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    return (one - other).abs().max().item()


differences: dict[str, float] = {}
with torch.inference_mode():
    for label, args, kwargs in calls():
        for name in OURS:
            ours, theirs = OURS[name](*args, **kwargs), THEIRS[name](*args, **kwargs)
            differences[f"{label}: {name}"] = difference(ours, theirs)
            in_comfy = comfy_attention.optimized_attention(*args, **kwargs, transformer_options=through(OURS[name]))
            differences[f"{label}: our {name} in ComfyUI"] = difference(in_comfy, ours)
            in_ours = dispatch.optimized_attention(*args, **kwargs, transformer_options=through(THEIRS[name]))
            differences[f"{label}: ComfyUI's {name} in ours"] = difference(in_ours, theirs)

    layer = comfy_attention.CrossAttention(64, 48, 4, 16, operations=comfy.ops.disable_weight_init)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    x, context = randn(2, 20, 64), randn(2, 7, 48)
    expected = layer(x, context)
    for name, function in OURS.items():
        out = layer(x, context, transformer_options=through(function))
        differences[f"CrossAttention: {name}"] = difference(out, expected)

Path(result).write_text(json.dumps(differences))
