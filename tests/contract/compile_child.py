"""Run patched models behind ComfyUI's compile node: `python compile_child.py RESULT.json`, with both on PYTHONPATH.

For each case: the error of the patched compiled model against the patched plain one, in both orders of the nodes, after
a change of its setting and after an unpatched run; and the error of an unpatched compiled model afterwards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

Put = Callable[[Any], Any]
SIDE = 8  # of the latent


def cases() -> dict[str, tuple[Put, Put]]:
    """Return two settings of each case."""
    from attention_patchbay.ldm_patched.patches.addressing.where import Where
    from attention_patchbay.ldm_patched.patches.engine.attach import attach
    from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
    from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
    from attention_patchbay.ldm_patched.patches.routing.rule import Rule
    from attention_patchbay.nodes._host import HOST

    middle, first = Where.of("middle"), Where.of("input:1")

    def put(method: Any) -> Put:
        return lambda model: attach(model, method, HOST)

    def patch(*settings: Any, **given: Any) -> Put:
        return put(AttentionPatch(*settings, **{"where": middle, **given}))

    windows = Where.of("middle", 0.4, 1.0), Where.of("middle", curve="linear")
    return {
        "output": (patch("attn1.out", "scale", 2.0), patch("attn1.out", "scale", 4.0)),
        "input": (patch("attn2.v", "zero"), patch("attn2.v", "zero", strength=0.5)),
        "window and curve": tuple(patch("attn1.out", "scale", 3.0, where=where) for where in windows),
        "replace": (patch("attn1.out", "identity"), patch("attn1.out", "identity", where=first)),
        "rule": (put(Rule("basic", middle)), put(Rule("split"))),
        "guidance": (put(PerturbedGuidance(scale=2.0, where=middle)), put(PerturbedGuidance(scale=1.0, where=first))),
    }


def main(result: str) -> None:
    """Run every case and write the errors."""
    from comfy.cli_args import args

    args.cpu = True
    from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
    from attention_patchbay.ldm_patched.patches.record.plan import plan_of
    from attention_patchbay.tests.contract.flat_unet import apart, flat_unet, sampled
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    base = flat_unet()

    def compiled(model: Any) -> Any:
        clone = model.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}
        set_torch_compile_wrapper(model=clone, backend="eager", options=options)
        return clone

    def recorded(model: Any) -> tuple[torch.Tensor, list[list[Any]]]:
        samples = sampled(model, SIDE)
        calls = ARCHIVE.find(samples, plan_of(model)).calls  # at once: another run may give the same latent
        return samples, sorted([str(call.block), call.kind, call.backend, count] for call, count in calls.items())

    def measure(put: Put) -> dict[str, Any]:
        expected, functions = recorded(put(base))
        results = {"effect": apart(expected, unpatched)}
        for order, model in (("patched first", compiled(put(base))), ("compiled first", put(compiled(base)))):
            samples, ran = recorded(model)
            results[order] = apart(samples, expected)
            results[f"{order}, functions"] = ran == functions
        results["removed"] = apart(sampled(compiled(base), SIDE), unpatched)
        return results

    unpatched = sampled(base, SIDE)
    found = {}
    torch._dynamo.config.recompile_limit = 100  # beyond it torch runs the frame plainly, and no graph could be stale
    sampled(compiled(base), SIDE)
    for name, puts in cases().items():
        found[name] = [measure(put) for put in puts]
    with open(result, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
