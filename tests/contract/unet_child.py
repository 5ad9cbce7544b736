"""Run one UNet pass with ComfyUI's own classes: `python unet_child.py JOB.pt RESULT.pt`, ComfyUI on PYTHONPATH.

`hook_options` is also what the test gives to our UNet, so that both hosts run the very same patches.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor


def seen(options: dict[str, Any]) -> list[Any]:
    """Return what a patch can read about where it runs."""
    keys = ("block", "block_index", "transformer_index", "n_heads", "dim_head", "activations_shape", "note")
    return [options.get(key) for key in keys]


def attention_in_numbers(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attend with plain products, (b, s, heads * d)."""
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def hook_options(calls: list[Any]) -> dict[str, Any]:
    """Build transformer_options with a working patch in every slot of a UNet; each logs its call."""

    def inputs(name: str, scale: float) -> Any:
        def patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
            calls.append([name, list(n.shape), list(context.shape), list(value.shape), seen(options)])
            return n * scale, context + 0.1, value * (2 - scale)

        return patch

    def output(name: str, shift: float) -> Any:
        def patch(n: Tensor, options: dict[str, Any]) -> Tensor:
            calls.append([name, list(n.shape), seen(options)])
            return n * 0.9 + shift

        return patch

    def replace(name: str) -> Any:
        def patch(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            hidden = [key for key in ("patches", "patches_replace") if key in options]
            calls.append([name, list(q.shape), list(k.shape), list(v.shape), hidden, seen(options)])
            return attention_in_numbers(q * 1.3, k, v, options["n_heads"])

        return patch

    def block(name: str) -> Any:
        def patch(h: Tensor, options: dict[str, Any]) -> Tensor:
            calls.append([name, list(h.shape), options["block"], options["transformer_index"]])
            return h * 1.1

        return patch

    def after_middle(args: dict[str, Any]) -> dict[str, Any]:
        calls.append(["middle_after", sorted(args), list(args["h"].shape), args["transformer_options"]["block"]])
        return {"h": args["h"] - 0.1}

    def joined(h: Tensor, skip: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        calls.append(["output", list(h.shape), list(skip.shape), options["block"]])
        return h * 0.95, skip * 1.05

    def embedding(emb: Tensor, channels: int, options: dict[str, Any]) -> Tensor:
        calls.append(["emb", list(emb.shape), channels, options["original_shape"]])
        return emb * 1.02

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(["override", list(q.shape), list(k.shape), heads, seen(kwargs["transformer_options"])])
        return func(q * 0.8, k, v, heads, *args, **kwargs)

    return {
        "note": "from the caller",
        "optimized_attention_override": override,
        "patches": {
            "attn1_patch": [inputs("attn1", 0.9), inputs("attn1 again", 1.1)],
            "attn2_patch": [inputs("attn2", 0.8)],
            "attn1_output_patch": [output("attn1 out", 0.02)],
            "attn2_output_patch": [output("attn2 out", -0.01)],
            "middle_patch": [output("middle", 0.03)],
            "input_block_patch": [block("input")],
            "input_block_patch_after_skip": [block("after skip")],
            "middle_block_after_patch": [after_middle],
            "output_block_patch": [joined],
            "emb_patch": [embedding],
        },
        "patches_replace": {
            "attn1": {("middle", 0): replace("middle 2"), ("output", 1): replace("output 2")},
            "attn2": {("middle", 0, 0): replace("middle 3"), ("middle", 0): replace("hidden by middle 3")},
        },
    }


def run(unet: torch.nn.Module, job: dict[str, Any]) -> dict[str, Any]:
    """Run the pass a job describes and return its output with the log of hook calls."""
    calls: list[Any] = []
    options = hook_options(calls) if job["hooks"] else {}
    unet.load_state_dict(job["state"])
    with torch.no_grad():
        out = unet.eval()(**job["inputs"], transformer_options=options)
    return {"out": out, "calls": calls}


def main(job_path: str, result_path: str) -> None:
    """Load jobs, run them in ComfyUI and save the results."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    jobs = torch.load(job_path, weights_only=True)
    results = [run(UNetModel(**job["config"], operations=comfy.ops.disable_weight_init), job) for job in jobs]
    torch.save(results, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
