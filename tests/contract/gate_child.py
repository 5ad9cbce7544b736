"""Put gates around nodes of others in ComfyUI: `python gate_child.py RESULT.json [NODE ...]`.

The result has a row for each node on a UNet, and one for each slot of tiny transformers. PATCHBAY_PACKS may be a folder
of pack folders.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

result, *wanted = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.sample  # noqa: E402
import server  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.gate_patches import GatePatches  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading import inspector, report  # noqa: E402
from attention_patchbay.nodes._host import HOST  # noqa: E402
from attention_patchbay.tests.contract.beside import unet  # noqa: E402
from attention_patchbay.tests.contract.theirs import NEGATIVE, POSITIVE, SIZE, THEIRS, called  # noqa: E402
from attention_patchbay.tests.contract.tiny_families import FAMILIES, load, noise_of, prompt  # noqa: E402
from attention_patchbay.tests.contract.tiny_families import sample as sample_tiny  # noqa: E402

import nodes  # noqa: E402

SHAPE = (2, 4, SIZE, SIZE)
Model = Any
NODES = {
    "core PAG": THEIRS["core PAG"],
    "core SAG": THEIRS["core SAG"],
    "core HyperTile": THEIRS["core HyperTile"],
    "core ToMe": THEIRS["core ToMe"],
    "core FreeU": THEIRS["core FreeU"],
    "core Deep Shrink": THEIRS["core Deep Shrink"],
    **{name: theirs for name, theirs in THEIRS.items() if theirs.pack and name != "KSamplerWithNAG"},
}
CORE_NAG = {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}


def sample(model: Model) -> torch.Tensor:
    torch.manual_seed(0)
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), 0)
    zeros = torch.zeros(SHAPE)
    return comfy.sample.sample(
        model, noise, 2, 2.0, "euler", "simple", POSITIVE, NEGATIVE, zeros, seed=0, disable_pbar=True
    )


def gated(model: Model, blocks: str = "all", **where: Any) -> Model:
    return attach(model, GatePatches(where=Where.of(blocks, **where)), HOST)


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def load_packs(folder: Path) -> set[str]:
    server.PromptServer(asyncio.new_event_loop())
    asyncio.run(nodes.init_builtin_extra_nodes())
    packs = {theirs.pack for theirs in NODES.values() if theirs.pack and (folder / theirs.pack).is_dir()}
    return {pack for pack in sorted(packs) if asyncio.run(nodes.load_custom_node(str(folder / pack)))}


def tried(base: Model, patched: Model, run: Callable[[Model], torch.Tensor], blocks: str) -> dict[str, Any]:
    """Return how far a model with gates is from that without them, and from that without the patches."""
    plain, theirs = run(base), run(patched)
    try:
        shut, wide = gated(patched, start_percent=1.0), gated(patched, curve="0:1, 1:1")
        half = gated(patched, end_percent=0.5)
    except ValueError as error:
        return {"refused": str(error)}
    out = run(half)
    row = {"effect": far(theirs, plain), "shut": far(run(shut), plain), "wide": far(run(wide), theirs)}
    row |= {"half": [far(out, plain), far(out, theirs)], "report": report.report(half, out).text}
    row["found"] = [(one.slot, one.owner, one.schedule) for one in inspector.findings(half, out)]
    try:
        row["blocks"] = [far(run(gated(patched, blocks)), plain), far(run(gated(patched, f"all, !{blocks}")), plain)]
    except ValueError as error:
        row["no blocks"] = str(error)
    return row


def on_unet(packs: set[str]) -> list[dict[str, Any]]:
    base, rows = unet(), []
    made = {name: theirs.make for name, theirs in NODES.items() if not theirs.pack or theirs.pack in packs}
    made["core NAG"] = lambda: called("NAGuidance", **CORE_NAG)
    for name, make in made.items():
        if not wanted or name in wanted:
            try:
                rows.append({"theirs": name, **tried(base, make()(base), sample, "middle")})
            except Exception as error:  # the test shows it
                rows.append({"theirs": name, "error": f"{type(error).__name__}: {error}"})
    return rows


# Slots of transformers


def replaced_block(args: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    out = more["original_block"](args)
    return {**out, "img": out["img"] * 1.1}


def after_block(args: dict[str, Any]) -> dict[str, Any]:
    return {**args, "img": args["img"] * 1.1}


def keywords(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **others: Any) -> dict[str, torch.Tensor]:
    return {"v": v * 1.1}


def stream(args: dict[str, Any]) -> torch.Tensor:
    return args["x"] * 1.1


def result_of(x: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
    return x.mul_(1.1)


def override(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return func(*args, **kwargs) * 1.1


def put(slot: str, patch: Any) -> Callable[[Model, str], None]:
    def there(model: Model, kind: str) -> None:
        if slot == "dit":
            for number in range(2):
                model.set_model_patch_replace(patch, "dit", f"{kind}_block", number)
        elif slot == "override":
            model.model_options["transformer_options"]["optimized_attention_override"] = patch
        else:
            model.set_model_patch(patch, slot)

    return there


SLOTS = {
    "Flux": {"dit": replaced_block, "attn1_patch": keywords, "attn1_output_patch": result_of, "override": override},
    "Qwen-Image": {"double_block": after_block, "attn1_patch": keywords, "dit": replaced_block},
    "Wan 2.1": {"attn1_patch": stream, "attn2_patch": stream, "double_block": after_block, "dit": replaced_block},
    "Anima": {"attn1_patch": keywords, "attn2_patch": keywords, "override": override},
    "LTX-Video": {"dit": replaced_block},
    "SD3": {"dit": replaced_block},
}


def on_transformers() -> list[dict[str, Any]]:
    rows = []
    for family, slots in SLOTS.items():
        if family not in FAMILIES or (wanted and family not in wanted):
            continue
        tiny = FAMILIES[family]
        base, noise, sides = load(tiny), noise_of(tiny), (prompt(tiny, 1), prompt(tiny, 2))

        def run(model: Model, noise: Any = noise, sides: Any = sides) -> torch.Tensor:
            return sample_tiny(model, noise, *sides, 3.0, 2)

        for slot, patch in slots.items():
            model = base.clone()
            put(slot, patch)(model, "double")
            first = "block:0" if family in ("Anima", "LTX-Video") else "double:0"
            row = tried(base, model, run, first)
            row["side"] = side(base, model, run, patch, slot)
            rows.append({"theirs": f"{family} {slot}", **row})
    return rows


def side(base: Model, model: Model, run: Any, patch: Any, slot: str) -> list[float]:
    """Return how far both sides, each gated for itself, are from the patched model where the other is patched too."""
    one = attach(model, GatePatches(side="positive"), HOST)
    return [far(run(one), run(base)), far(run(one), run(model))]


def main() -> None:
    packs = load_packs(Path(os.environ.get("PATCHBAY_PACKS", "/nowhere")).resolve())
    Path(result).write_text(json.dumps({"unet": on_unet(packs), "transformers": on_transformers()}))


main()
