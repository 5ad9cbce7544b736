"""`patchbay tune`: the fastest attention functions of a model, measured, and kept in a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...ldm_patched.files.checkpoint import CheckpointError
from ...ldm_patched.files.whole import this_name, write_new
from ...ldm_patched.ldm.modules.backends import registry
from ...ldm_patched.patches.addressing.address import AddressError
from ...ldm_patched.patches.reading.file_header import model_of
from ...ldm_patched.patches.routing.kept_choices import (
    OTHER,
    check_keeps,
    kept_file,
    kept_rules,
    write_choices,
    write_without_choices,
)
from ...ldm_patched.patches.routing.layer_choices import LayerChoices, layer_choices
from ...ldm_patched.patches.routing.rule import Rule
from ...ldm_patched.patches.routing.rules import RuleError, parse_rules, rules_text
from ..api.folders import Folders
from ..engine import workflow
from ..engine.errors import FAILED, Failure, require
from ..engine.models import loader_of, model_path
from ..pages.workflow_file import WORKFLOW, embedded_infos, load
from ..sweep.expect import Bound, parse_bound
from .places import OUTPUT, folder
from .run import add_surroundings, execute, refused
from .run_files import saves
from .sweep_results import report_in
from .tune_pictures import Choice, judged

MODEL = ".safetensors"
LESS = (0.1, 0.01, 0.001)  # of --max-error: what choices by pictures fall back to
NEAR = "ssim=0.95"
NONE = "no rules: with none of the choices the pictures are near enough"
LABEL = "rules, as Attention Backend Rules and --rules take them:"


def add_tune(tune: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay tune`."""
    tune.add_argument("source", type=Path, metavar="workflow", help=f"{WORKFLOW}, with one KSampler; or a {MODEL} file")
    tune.add_argument("--max-error", type=float, default=0.001, help="largest error against float64 (default 0.001)")
    tune.add_argument("--seconds", type=float, default=30.0, help="about how long to measure (default 30)")
    tune.add_argument("--again", action="store_true", help="measure again what is known already")
    tune.add_argument(
        "--recorded-steps",
        type=int,
        default=0,
        metavar="N",
        help="also hold each function against float64 on the model's own tensors, in N steps",
    )
    tune.add_argument(
        "--rules", metavar="TEXT", help="measure nothing: take these rules, or those that a file of --side keeps"
    )
    tune.add_argument(
        "--write", type=Path, metavar="FILE", help="keep the choice in a copy of the checkpoint, for plain ComfyUI too"
    )
    tune.add_argument("--side", type=Path, metavar="FILE", help="keep the choice in a file of a few kB")
    tune.add_argument("--undo", action="store_true", help="with --write: a copy of the checkpoint without its choice")
    _add_pictures(tune)
    add_surroundings(tune)
    tune.set_defaults(run=tune_attention)


def _add_pictures(tune: argparse.ArgumentParser) -> None:
    pictures = "make the pictures of N seeds with the choice and without; too far: choose within a tenth of the error"
    tune.add_argument("--pictures", type=int, default=0, metavar="N", help=pictures)
    bound = f"how far they may be on average: mean, max (levels), psnr, ssim, lpips; all must hold (default {NEAR})"
    tune.add_argument("--bound", action="append", default=[], metavar="NAME=X", help=bound)
    where = "of the pictures and their report (default tune_pictures)"
    tune.add_argument("--folder", type=folder, default=Path("tune_pictures"), metavar="DIR", help=where)


def tune_attention(args: argparse.Namespace) -> int:
    """Run `patchbay tune`."""
    _check(args)
    try:
        if args.undo:
            write_without_choices(args.source, args.write)
            return _tell(args, {"written": str(args.write)}, [f"{args.write}: as it was before the choice"])
        path, rules, text = _choice(args)
        return _keep(args, path, rules, text)
    except (CheckpointError, RuleError, AddressError) as error:
        raise Failure(str(error)) from None


def _check(args: argparse.Namespace) -> None:
    """Refuse before anything is measured what cannot be done afterwards."""
    is_model = args.source.suffix == MODEL
    if args.undo and not (is_model and args.write):
        raise Failure(f"--undo takes a {MODEL} file, and --write for the copy without its choice")
    for option in ("rules", "side"):
        if args.undo and getattr(args, option) is not None:
            raise Failure(f"--undo takes no --{option}: it writes the copy as it was before the choice")
    if is_model and args.rules is None and not args.undo:
        raise Failure(f"{args.source} is measured by a workflow that loads it: give that, or --rules for this file")
    if is_model and not args.source.is_file():
        raise Failure(f"no such file: {args.source}")
    if args.pictures < 0 or (args.pictures and is_model):
        raise Failure(
            f"--pictures {args.pictures}: write how many seeds to take, and give a workflow that makes pictures"
        )
    if args.bound and not args.pictures:
        raise Failure("--bound is of --pictures; write how many to make there")
    if args.pictures:
        require("sweep")
        _bounds(args)
        if args.folder.exists() and not args.folder.is_dir():
            raise Failure(f"--folder {args.folder} is a file; choose another name")
    for target in (args.write, args.side):
        if target is not None and target.exists():
            raise Failure(f"{target} is there already, and nothing is written over; choose another name")
        if target is not None and not target.parent.is_dir():
            raise Failure(f"{target}: there is no folder {target.parent}; make it, or choose another")
        if target is not None and target.suffix != MODEL:
            raise Failure(f"{target}: give it a name that ends in {MODEL}, by which ComfyUI finds it")


def _choice(args: argparse.Namespace) -> tuple[Path | None, Sequence[Rule], str]:
    """Return the model file, its rules, and what was measured for reading."""
    folders = Folders(args.models, args.input, OUTPUT)
    given = None if args.rules is None else _given(args.rules)
    if args.source.suffix == MODEL:
        return args.source, given or (), rules_text(given or ())
    prompt = load(args.source, embedded_infos)
    path = _model(prompt, folders)
    if args.pictures and not saves(prompt):
        raise Failure(f"--pictures: {args.source} saves no picture; add a Save Image")
    if given is None:
        return path, *_new_choice(args, folders, prompt, path)
    if not args.pictures:
        return path, given, rules_text(given)
    _check_given(given)
    return path, *_by_pictures(args, folders, prompt, [Choice("given", rules_text(given))], "")


def _check_given(rules: Sequence[Rule]) -> None:
    """Raise Failure for rules that pictures cannot judge here."""
    absent = [rule.backend for rule in rules if rule.backend not in ("auto", *registry.usable())]
    if absent:
        raise Failure(
            f"--pictures: {absent[0]} does not run on this machine, so its pictures would be those of another"
        )
    if not rules:
        raise Failure("--pictures: --rules is empty, so there is no choice to judge")


def _new_choice(
    args: argparse.Namespace, folders: Folders, prompt: workflow.Prompt, path: Path | None
) -> tuple[Sequence[Rule], str]:
    """Measure, and return the rules and everything for reading."""
    if args.write is not None or args.side is not None:
        path, model = _known(path)
        if args.write is not None:
            check_keeps(path, model, registry.usable())
    rules, text = _measured(args, folders, prompt, args.max_error, args.again)
    if not (args.pictures and rules):
        return parse_rules(rules), text
    choices = {rules: args.max_error}
    for part in LESS:
        found, _ = _measured(args, folders, prompt, part * args.max_error, False)
        choices.setdefault(found, part * args.max_error)
    made = [Choice(f"{error:g}", text) for text, error in choices.items() if text]
    return _by_pictures(args, folders, prompt, made, text.removeprefix(rules))


def _measured(
    args: argparse.Namespace, folders: Folders, prompt: workflow.Prompt, max_error: float, again: bool
) -> tuple[str, str]:
    """Return the rules within an error, and what was measured for reading."""
    widgets = {"max_error": max_error, "seconds": args.seconds, "again": again}
    tuned, node = workflow.tuning(prompt, {**widgets, "recorded_steps": args.recorded_steps})
    run = execute(args, folders, tuned)
    if node not in run.ui:  # another output of the workflow could be made without it
        raise Failure("; ".join(refused(run.refused)))
    return run.ui[node]["rules"][0], run.ui[node]["text"][0]


def _by_pictures(
    args: argparse.Namespace, folders: Folders, prompt: workflow.Prompt, choices: Sequence[Choice], measured: str
) -> tuple[Sequence[Rule], str]:
    """Return the first rules whose pictures are near enough, and everything for reading."""
    found = judged(args, folders, prompt, choices, _bounds(args))
    parts = [found.rules or NONE, found.text(), report_in(str(args.folder)), measured.strip()]
    return parse_rules(found.rules), "\n\n".join(filter(None, parts))


def _bounds(args: argparse.Namespace) -> list[Bound]:
    return [parse_bound(text) for text in args.bound or [NEAR]]


def _given(rules: str) -> tuple[Rule, ...]:
    """Read rules, or those that a file keeps."""
    return kept_rules(Path(rules)) if rules.endswith(MODEL) else parse_rules(rules)


def _model(prompt: workflow.Prompt, folders: Folders) -> Path | None:
    """Return the file whose model a workflow samples, as far as it can be followed."""
    samplers = [id for id, node in prompt.items() if node["class_type"] in workflow.SAMPLERS]
    loader = loader_of(prompt, samplers[0]) if samplers else None
    return None if loader is None else model_path(prompt[loader], folders)


def _keep(args: argparse.Namespace, path: Path | None, rules: Sequence[Rule], text: str) -> int:
    """Write the files that are asked for, and tell what is in them."""
    about: dict[str, Any] = {"rules": rules_text(rules), "text": text}
    if args.write is None and args.side is None:
        return _tell(args, about, [LABEL, text])
    if not args.json:
        print(LABEL, text, sep="\n", end="\n\n")  # whatever becomes of the files
    if args.pictures and not rules:
        raise Failure(f"{NONE}; nothing is kept", FAILED)
    path, model = _known(path)
    found = _fitting(rules, model, args.rules or "")
    if args.side is not None:
        write_new(this_name(args.side), lambda file: file.write(kept_file(rules, found)))
    if args.write is not None:
        write_choices(path, args.write, rules, found)
    written = [str(target) for target in (args.side, args.write) if target is not None]
    about |= {"written": written, "layers": found.functions, "left": found.left}
    return _tell(args, about, [*written, *found.lines()])


def _fitting(rules: Sequence[Rule], model: Any, given: str) -> LayerChoices:
    """Return what a checkpoint can keep of rules. Raises Failure for those of a file for another model."""
    try:
        return layer_choices(rules, model)
    except AddressError as error:
        raise Failure(OTHER.format(given, error.reason) if given.endswith(MODEL) else str(error)) from None


def _known(path: Path | None) -> tuple[Path, Any]:
    """Return a file that choices are kept for, and its model without weights. Raises Failure where there is none."""
    if path is None:
        raise Failure("no model file can be found behind the sampler of this workflow; give the file and --rules")
    model = model_of(path)
    if model is None:
        raise Failure(f"{path} holds no model whose blocks are known by its header")
    return path, model


def _tell(args: argparse.Namespace, about: dict[str, Any], lines: list[str]) -> int:
    print(json.dumps(about, indent=1) if args.json else "\n".join(lines))
    return 0
