"""Put gates around nodes of others in ComfyUI: `python gate_child.py RESULT.json [NODE ...]`.

The result has a row for each node on a UNet, and one for each slot of tiny transformers. PATCHBAY_PACKS may be a folder
of pack folders.
"""

from __future__ import annotations

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
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.gate_patches import GatePatches  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading import inspector, report  # noqa: E402
from attention_patchbay.nodes._host import HOST  # noqa: E402
from attention_patchbay.tests.contract.beside import unet  # noqa: E402
from attention_patchbay.tests.contract.theirs import (  # noqa: E402
    ADAPTED,
    NEGATIVE,
    POSITIVE,
    SIZE,
    THEIRS,
    adapter,
    called,
    load_packs,
)
from attention_patchbay.tests.contract.tiny_families import FAMILIES, load, noise_of, prompt  # noqa: E402
from attention_patchbay.tests.contract.tiny_families import sample as sample_tiny  # noqa: E402

SHAPE = (2, 4, SIZE, SIZE)
Model = Any
ON_THE_MODEL = ("core PAG", "core SAG", "core HyperTile", "core ToMe", "core FreeU", "core Deep Shrink", "IPAdapter")
ON_THE_MODEL += ("NAG", "PAG", "SEG", "TPG", "PLADIS", "couple", "couple of ppm", "bleh Deep Shrink")
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


def tried(base: Model, patched: Model, run: Callable[[Model], torch.Tensor], blocks: str) -> dict[str, Any]:
    """Return how far a model with gates is from that without them, and from that without the patches."""
    plain, theirs = run(base), run(patched)
    try:
        shut, wide = gated(patched, start_percent=1.0), gated(patched)
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
    made = {name: THEIRS[name].make for name in ON_THE_MODEL if not THEIRS[name].pack or THEIRS[name].pack in packs}
    made["core NAG"] = lambda: called("NAGuidance", **CORE_NAG)
    for name, make in made.items():
        if not wanted or name in wanted:
            rows.append({"theirs": name, **tried(base, make()(base), sample, "middle")})
    return rows


def ipadapter() -> dict[str, float]:
    """Return how far gates are from what IPAdapter can do itself, and one that it joins later from no adapter."""
    base = unet()
    end = base.get_model_object("model_sampling").percent_to_sigma(0.5)
    first = adapter(base, ADAPTED[:1])
    joined = adapter(gated(adapter(base), start_percent=1.0))
    return {
        "end": far(sample(gated(adapter(base), end_percent=0.5)), sample(adapter(base, end=end))),
        "block": far(sample(gated(adapter(base), "input:4")), sample(first)),
        "joined": far(sample(joined), sample(base)),
    }


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
            row["by hand"] = compared(base, slot, patch, run, first)
            rows.append({"theirs": f"{family} {slot}", **row})
    return rows


WITHOUT: dict[Any, Callable[..., Any]] = {
    replaced_block: lambda args, more: more["original_block"](args),
    after_block: lambda args: args,
    keywords: lambda q, k, v, **others: {"v": v},
    stream: lambda args: args["x"],
    result_of: lambda x, extra_options: x,
    override: lambda func, *args, **kwargs: func(*args, **kwargs),
}


def by_hand(patch: Any, first: str, side: bool) -> Any:
    """Return a patch that its author limited to the first block, or to the rows of the positive prompt."""
    without, (kind, _) = WITHOUT[patch], first.split(":")

    def limited(*args: Any, **kwargs: Any) -> Any:
        holder = args[0] if isinstance(args[0], dict) else {"transformer_options": args[-1]}
        options = kwargs.get("extra_options") or kwargs.get("transformer_options") or holder["transformer_options"]
        if not side:
            here = options["block_index"] == 0 and options.get("block_type", kind) == kind
            return (patch if here else without)(*args, **kwargs)
        plain, theirs = without(*own(args), **kwargs), patch(*own(args), **kwargs)
        return rows_of(plain, theirs, options["cond_or_uncond"])

    return limited


def own(given: Any) -> Any:
    if isinstance(given, torch.Tensor):
        return given.clone()
    if isinstance(given, tuple):
        return tuple(map(own, given))
    return (
        {name: own(one) if name in ("img", "txt") else one for name, one in given.items()}
        if type(given) is dict
        else given
    )


def rows_of(plain: Any, theirs: Any, chunks: list[int]) -> Any:
    if isinstance(theirs, dict):
        same = {name: rows_of(plain[name], one, chunks) for name, one in theirs.items() if name in ("img", "txt", "v")}
        return {**theirs, **same}
    both = zip(plain.chunk(len(chunks)), theirs.chunk(len(chunks)), chunks, strict=True)
    return torch.cat([one if chunk else other for one, other, chunk in both])


def compared(base: Model, slot: str, patch: Any, run: Any, first: str) -> dict[str, float]:
    """Return how far gates by block and by side are from patches that were limited by hand."""
    model, block, side = base.clone(), base.clone(), base.clone()
    put(slot, patch)(model, "double")
    if slot == "dit":
        block.set_model_patch_replace(patch, "dit", "double_block", 0)
    else:
        put(slot, by_hand(patch, first, False))(block, "double")
    put(slot, by_hand(patch, first, True))(side, "double")
    positive = attach(model, GatePatches(side="positive"), HOST)
    return {"block": far(run(gated(model, first)), run(block)), "side": far(run(positive), run(side))}


def main() -> None:
    packs = load_packs(Path(os.environ.get("PATCHBAY_PACKS", "nowhere")).resolve(), ON_THE_MODEL)
    found = {"unet": on_unet(packs), "transformers": on_transformers()}
    found["ipadapter"] = ipadapter() if THEIRS["IPAdapter"].pack in packs else None
    Path(result).write_text(json.dumps(found))


main()
