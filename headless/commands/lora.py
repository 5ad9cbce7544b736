"""`patchbay lora`: the blocks of a LoRA, what each changes in a picture, and a file with rules in it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from ...ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from ...ldm_patched.files.whole import replacing
from ...ldm_patched.patches.reading.lora_baked import baked, idle, nothing
from ...ldm_patched.patches.reading.lora_layers import lora_layers
from ...ldm_patched.patches.routing.strengths import StrengthRule, parse_strengths
from ..engine.errors import FAILED, Failure, require
from ..pages.workflow_file import WORKFLOW, load
from ..sweep.away import at_hand
from ..sweep.messages import Messages
from ..sweep.store import opened
from ..sweep.study import Study
from .lora_influence import OTHER, influence, influence_cells, influence_text, loader
from .lora_info import lora_info, lora_text
from .service import check_service
from .sweep import add_running, check_cells, infos_of, run_cells
from .sweep_results import report_in

# what trainers note of the numbers in a file, which are others then
HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def add_lora(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay lora`."""
    command.add_argument("file", type=Path, help="a .safetensors file")
    measured = "measure what each block changes in the pictures of this workflow, which loads the LoRA; "
    command.add_argument("workflow", type=Path, nargs="?", help=measured + WORKFLOW)
    bake = 'save the LoRA scaled by rules, such as "input:7-8 -> 0.3; * -> 1", for any loader'
    command.add_argument("--bake", nargs=2, metavar=("OUT", "RULES"), help=bake)
    command.add_argument("--force", action="store_true", help="let --bake replace a file")
    add_running(command, "lora_influence")
    command.set_defaults(run=lora)


def lora(args: argparse.Namespace) -> int:
    """Run `patchbay lora`."""
    if args.bake and args.workflow:
        raise Failure("give a workflow to measure with, or --bake; one of them")
    try:
        if args.bake:
            return _bake(args, Path(args.bake[0]), args.bake[1])
        info = lora_info(args.file)
    except CheckpointError as error:
        raise Failure(str(error)) from None
    except ValueError as error:
        raise Failure(f"{args.file}: {error}") from None
    if args.workflow:
        return _measure(args, info)
    print(json.dumps(info, indent=1) if args.json else lora_text(info))
    return 0


def _measure(args: argparse.Namespace, info: dict[str, Any]) -> int:
    require("sweep")
    check_service(args)
    infos = infos_of(args)
    prompt, all = influence_cells(load(args.workflow, lambda: infos), args.file.name, info["blocks"], infos)
    _check_rules(args.file, prompt[loader(prompt, args.file.name)]["inputs"]["rules"])
    check_cells(all, args, infos)
    messages = Messages(args.on_cell, args.webhook, args.folder)
    with at_hand(args.folder) as (folder, away), opened(folder, all, Study(floor=OTHER), away) as store:
        rows, _ = run_cells(args, prompt, infos, store, messages)
    found = influence(info["blocks"], rows)
    print(json.dumps(found, indent=1) if args.json else influence_text(found))
    if not args.json:
        print(report_in(args.folder))
    return FAILED if any(row["error"] for row in rows) else 0


def _check_rules(file: Path, text: str) -> None:
    """Tell the rules of a workflow that take no layer of a file; raise Failure where none with a strength takes one."""
    layers = lora_layers(Checkpoint(file).loaded())[0]
    try:
        rules = parse_strengths(text)
    except ValueError:
        return  # the check of the workflow says so, with its node
    unused = idle(rules, layers)
    if not any(rule.strength for rule in rules if rule not in unused):
        raise Failure(f"{file}: the rules of this workflow leave nothing of it: {nothing(rules, layers)}")
    _tell(unused)


def _tell(unused: Sequence[StrengthRule]) -> None:
    for rule in unused:
        print(f"the rule for '{rule.where}' takes no layer of this file", file=sys.stderr)


def _bake(args: argparse.Namespace, out: Path, text: str) -> int:
    if out.exists() and not args.force:
        raise Failure(f"{out} is there already; give another name, or --force to replace it")
    file, rules = Checkpoint(args.file), parse_strengths(text)
    entries = file.loaded()
    kept = baked(entries, rules)
    _tell(idle(rules, lora_layers(entries)[0]))
    about = {name: value for name, value in file.metadata.items() if name not in HASHES}
    data = save({key: tensor.contiguous() for key, tensor in kept.items()}, about | {"patchbay_rules": text})
    with replacing(out) as target:
        target.write(data)
    if args.json:
        print(json.dumps({"file": str(out), "bytes": len(data), "tensors": len(kept), "of": len(entries)}))
    else:
        print(f"{out}: {len(kept)} of {len(entries)} tensors, {len(data) / 1e6:.1f} MB")
    return 0
