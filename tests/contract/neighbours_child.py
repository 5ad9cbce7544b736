"""Sample a UNet behind nodes of ours and of other packs, in both orders: `neighbours_child.py RESULT.json [NODE ...]`.

PATCHBAY_PACKS is a folder of pack folders. The result has a row for each pair and order, and one for each node of
another pack alone, or that its pack is missing.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

result, *wanted = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.sample  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading import inspector, report  # noqa: E402
from attention_patchbay.tests.contract.beside import HOST, unet  # noqa: E402
from attention_patchbay.tests.contract.mine import MINE  # noqa: E402
from attention_patchbay.tests.contract.theirs import (  # noqa: E402
    NEGATIVE,
    OTHER,
    POSITIVE,
    SIZE,
    THEIRS,
    Model,
    Node,
    load_packs,
)

import nodes  # noqa: E402

SHAPE = (2, 4, SIZE, SIZE)


def put(name: str) -> Node:
    """Return a node of ours."""
    return lambda model: attach(model, MINE[name].method, HOST)


def sample(model: Model, theirs: str, steps: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    if theirs == "KSamplerWithNAG":
        guidance = {"nag_scale": 5.0, "nag_tau": 3.5, "nag_alpha": 0.5, "nag_sigma_end": 0.0, "nag_negative": OTHER}
        inputs = {"positive": POSITIVE, "negative": NEGATIVE, "latent_image": {"samples": torch.zeros(SHAPE)}}
        node = nodes.NODE_CLASS_MAPPINGS[theirs]()
        sampler = {"seed": 0, "steps": steps, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
        return node.sample(model=model, **sampler, **guidance, **inputs)[0]["samples"]
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), 0)
    prompts = THEIRS[theirs].prompts(POSITIVE, NEGATIVE) if theirs else (POSITIVE, NEGATIVE)
    return comfy.sample.sample(
        model, noise, steps, 2.0, "euler", "simple", *prompts, torch.zeros(SHAPE), seed=0, disable_pbar=True
    )


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def main() -> None:
    packs = load_packs(Path(os.environ["PATCHBAY_PACKS"]).resolve(), wanted)
    base, rows = unet(), []
    mine = [name for name in MINE if name in os.environ.get("PATCHBAY_OURS", name).split(",")]
    alone = cache(lambda name, steps: sample(put(name)(base) if name else base, "", steps))
    for theirs, (pack, make, _, steps) in THEIRS.items():
        if wanted and theirs not in wanted:
            continue
        if pack and pack not in packs:
            rows.append({"theirs": theirs, "missing": pack})
            continue
        node = make()
        only = sample(node(base), theirs, steps)
        plain = far(sample(base, "", steps), alone("", steps))
        rows.append({"theirs": theirs, "effect": far(only, alone("", steps)), "plain": plain})
        for name in (name for name in mine if theirs in MINE[name].beside):
            for first in (True, False):
                both = node(put(name)(base)) if first else put(name)(node(base))
                row = {"ours": name, "theirs": theirs, "ours first": first}
                row |= pair(both, theirs, steps, alone(name, steps), only)
                rows.append({**row, "plain": far(sample(base, "", 1), alone("", 1))})
        Path(result).write_text(json.dumps(rows))  # what is known, should a later one end the process


def pair(model: Model, theirs: str, steps: int, ours_alone: torch.Tensor, theirs_alone: torch.Tensor) -> dict[str, Any]:
    try:
        out = sample(model, theirs, steps)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    found = [(one.slot, one.owner, one.calls, one.trouble) for one in inspector.findings(model, out)]
    effects = {"ours_effect": far(out, theirs_alone), "theirs_effect": far(out, ours_alone), "sum": out.sum().item()}
    return {**effects, "report": report.report(model, out).text, "found": sorted(set(map(str, found)))}


main()
