"""A LoRA beside weights against ComfyUI's own loader: `python lora_layers_child.py RESULT.json [FAMILY...]`.

Both ComfyUI and this pack are on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

STRENGTH = 0.7


def main(path: str, *names: str) -> None:
    """Write, for a tiny model of each family, how far the ways to put a LoRA on it are apart."""
    from comfy.cli_args import args

    args.cpu = True
    from attention_patchbay.tests.contract.lora_demo import pictures
    from attention_patchbay.tests.contract.tiny_families import FAMILIES, sample

    results = {name: family(FAMILIES[name]) for name in names or FAMILIES}
    drawn = pictures(lambda *given: sample(*given, steps=3))
    results["demo"] = {name: one.tolist() for name, one in drawn.items()}
    with open(path, "w") as file:
        json.dump(results, file)


def family(tiny: Any) -> dict[str, Any]:
    """Return how a model with a LoRA of all its layers, and with one of its last block, differs from ComfyUI's."""
    import comfy.sd
    from attention_patchbay.ldm_patched.patches.addressing.blocks import model_blocks
    from attention_patchbay.ldm_patched.patches.addressing.where import Where
    from attention_patchbay.ldm_patched.patches.engine.attach import attach
    from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile, lora_on
    from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules, parse_lora_rules
    from attention_patchbay.nodes._host import HOST
    from attention_patchbay.tests.contract.family_trials import Bench
    from attention_patchbay.tests.contract.lora_demo import random_lora

    bench = Bench(tiny)
    entries = random_lora(bench.model)
    lora = lora_on(bench.model, LoraFile.of("all", entries), HOST.weights(bench.model))

    def theirs(some: dict[str, torch.Tensor]) -> torch.Tensor:
        return bench.run(comfy.sd.load_lora_for_models(bench.model, None, some, STRENGTH, 0.0)[0])

    def ours(text: str) -> torch.Tensor:
        return bench.run(attach(bench.model, LoraRules(lora, parse_lora_rules(text), Where()), HOST))

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().max() / other.abs().max())

    found: dict[str, Any] = {"keys": [lora.used, lora.entries], "lost": lora.lost[:3]}
    found |= {
        "everywhere": apart(ours(f"* -> {STRENGTH}"), theirs(entries)),
        "moves": apart(theirs(entries), bench.base),
    }
    found["nowhere"] = bool(torch.equal(ours("* 0-0% -> 1"), bench.base))
    blocks = model_blocks(bench.model)
    if blocks:
        block = blocks[-1].id
        mine = {f"diffusion_model.{one.path}." for one in lora.found if one.place.block == block}
        some = {key: value for key, value in entries.items() if any(key.startswith(name) for name in mine)}
        found["block"] = [apart(ours(f"{block} -> {STRENGTH}"), theirs(some)), apart(theirs(some), bench.base)]
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
