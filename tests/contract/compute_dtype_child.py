"""Compute patched UNets in bfloat16 by ComfyUI's node: `python compute_dtype_child.py RESULT.json`, both on PYTHONPATH.

For each case: the dtypes of the queries and the functions that ran, whether the order of the two nodes matters, and how
far the result is from that of the same in float32, and from that without our node.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

SIDE = 16  # of the latent: 256 tokens


def main(result: str) -> None:
    """Run every case and write what was found."""
    from comfy.cli_args import args

    args.cpu = True
    from attention_patchbay.ldm_patched.patches.addressing.where import Where
    from attention_patchbay.ldm_patched.patches.engine.attach import attach
    from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
    from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
    from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
    from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
    from attention_patchbay.ldm_patched.patches.record.plan import plan_of
    from attention_patchbay.ldm_patched.patches.routing.rule import Rule
    from attention_patchbay.nodes._host import HOST
    from attention_patchbay.tests.contract.flat_unet import apart, flat_unet, sampled
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    base = flat_unet()
    seen: set[str] = set()

    def heard(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> Any:
        seen.add(str(q.dtype))
        return q, k, v

    def run(model: Any) -> torch.Tensor:
        model = model.clone()
        model.set_model_attn1_patch(heard)
        return sampled(model, SIDE)

    def in_bfloat16(model: Any) -> Any:
        return ModelComputeDtype().patch(model, "bf16")[0]

    def measure(method: Any) -> dict[str, Any]:
        in_float32 = run(attach(base, method, HOST))
        seen.clear()
        model = in_bfloat16(attach(base, method, HOST))
        samples = run(model)
        calls = ARCHIVE.find(samples, plan_of(model)).calls
        return {
            "dtypes": sorted(seen),
            "functions": sorted({call.backend for call in calls}),
            "other order": apart(run(attach(in_bfloat16(base), method, HOST)), samples),
            "float32": apart(samples, in_float32),
            "unpatched": apart(samples, run(in_bfloat16(base))),
        }

    cases = {
        "neutral": TiledAttention(0),
        "auto": Rule("auto"),
        "tiles": Rule("cpu_tiled"),
        "patch": AttentionPatch("attn1.out", "scale", 8.0, where=Where.of("all")),
        "merging": TokenMerging(0.5, where=Where.of("all")),
    }
    before = run(base)
    found = {name: measure(method) for name, method in cases.items()}
    found["afterwards"] = {"unchanged": torch.equal(run(base), before)}
    with open(result, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
