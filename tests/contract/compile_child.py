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
from attention_patchbay.tests.unets import FLAT as UNET

Put = Callable[[Any], Any]


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
    import comfy.model_patcher
    import comfy.sample
    import comfy.supported_models
    from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
    from attention_patchbay.ldm_patched.patches.record.plan import plan_of
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    torch.manual_seed(0)
    config = comfy.supported_models.SD15(UNET)
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, device="cpu")
    for name, weight in network.diffusion_model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.1)
        else:
            torch.nn.init.constant_(weight, float(name.endswith("weight")))
    base = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    positive, negative = ([[torch.randn(1, 7, 16), {}]] for _ in range(2))
    noise = torch.randn(1, 4, 8, 8)

    def run(model: Any) -> torch.Tensor:
        latent = torch.zeros(1, 4, 8, 8)
        arguments = (4, 4.0, "euler", "normal", positive, negative, latent)
        return comfy.sample.sample(model, noise, *arguments, disable_pbar=True, seed=0)

    def compiled(model: Any) -> Any:
        clone = model.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}
        set_torch_compile_wrapper(model=clone, backend="eager", options=options)
        return clone

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().max() / other.abs().max())

    def recorded(model: Any) -> tuple[torch.Tensor, list[list[Any]]]:
        samples = run(model)
        calls = ARCHIVE.find(samples, plan_of(model)).calls  # at once: another run may give the same latent
        return samples, sorted([str(call.block), call.kind, call.backend, count] for call, count in calls.items())

    def measure(put: Put) -> dict[str, Any]:
        expected, functions = recorded(put(base))
        results = {"effect": apart(expected, unpatched)}
        for order, model in (("patched first", compiled(put(base))), ("compiled first", put(compiled(base)))):
            samples, ran = recorded(model)
            results[order] = apart(samples, expected)
            results[f"{order}, functions"] = ran == functions
        results["removed"] = apart(run(compiled(base)), unpatched)
        return results

    unpatched = run(base)
    found = {}
    torch._dynamo.config.recompile_limit = 100  # beyond it torch runs the frame plainly, and no graph could be stale
    run(compiled(base))
    for name, puts in cases().items():
        found[name] = [measure(put) for put in puts]
    with open(result, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
