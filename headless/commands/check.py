"""`patchbay check`: what is wrong with a workflow, before it runs and without loading a model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ...ldm_patched.files.checkpoint import CheckpointError
from ...ldm_patched.ldm.modules.backends import registry
from ...ldm_patched.patches.addressing.address import AddressError, parse
from ...ldm_patched.patches.addressing.blocks import check_address
from ...ldm_patched.patches.routing.rules import parse_rules
from ..api.folders import Folders
from ..api.session import Session, entered
from ..engine.errors import USER_ERROR
from ..engine.models import loaded, loader_of
from ..engine.validate import Catalog, Classes, check_type, unknown_inputs, validate
from ..engine.workflow import Prompt, PromptError, title
from ..pages.described import described
from ..pages.page_widgets import Infos
from ..pages.server import server_infos
from ..pages.workflow_file import WORKFLOW, embedded_infos, infos_in, load
from .access import access_of, add_access
from .places import OUTPUT, add_input, add_models

BACKEND_RULES = "PatchbayBackendRules"


def add_check(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay check`."""
    command.add_argument("workflow", type=Path, help=WORKFLOW)
    add_models(command)
    add_input(command)
    command.add_argument("--server", metavar="URL", help="the ComfyUI whose nodes to go by")
    command.add_argument("--nodes", type=Path, metavar="FILE", help="its nodes, as its /object_info gave them")
    command.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_access(command)
    command.set_defaults(run=check)


def check(args: argparse.Namespace) -> int:
    """Run `patchbay check`."""
    folders = Folders(args.models, args.input, OUTPUT)
    infos = _infos(args)
    prompt = load(args.workflow, lambda: infos or embedded_infos(), unknown=True)
    errors, warnings = findings(prompt, folders) if infos is None else findings_there(prompt, infos, folders)
    if args.json:
        print(json.dumps({"errors": errors, "warnings": warnings}, indent=1))
    else:
        for kind, lines in (("error", errors), ("warning", warnings)):
            for line in lines:
                print(f"{kind}: {line}")
        print(f"{len(errors)} errors, {len(warnings)} warnings in {len(prompt)} nodes")
    return USER_ERROR if errors else 0


def _infos(args: argparse.Namespace) -> Infos | None:
    """Return the nodes of a ComfyUI; None for those of the embedded host."""
    if args.nodes is not None:
        return infos_in(args.nodes)
    return server_infos(args.server, access_of(args)) if args.server else None


def findings(prompt: Prompt, folders: Folders) -> tuple[list[str], list[str]]:
    """Return errors, with which the workflow does not run on the embedded host, and warnings."""
    from ..engine.catalog import catalog

    errors, order = _checked(prompt, catalog(), folders, strict=True)
    if errors:
        return errors, []
    warnings = [*_backends(prompt, order), *_idle(prompt, order), *_ignored(prompt, order, catalog())]
    return _addresses(prompt, order, folders), warnings


def findings_there(prompt: Prompt, infos: Infos, folders: Folders) -> tuple[list[str], list[str]]:
    """Return errors, with which the workflow does not run on the ComfyUI of the nodes, and warnings.

    Block addresses are held against the models that are in the folders here.
    """
    nodes = described(infos)
    errors, order = _checked(prompt, nodes, folders, strict=False)
    if errors:
        return errors, []
    return _addresses(prompt, order, folders), [*_idle(prompt, order), *_ignored(prompt, order, nodes)]


def _checked(prompt: Prompt, nodes: Catalog, folders: Folders, strict: bool) -> tuple[list[str], list[str]]:
    """Return errors, or else the running order."""
    errors = _unknown(prompt, nodes)
    if errors:
        return errors, []
    try:
        with entered(Session(folders)):
            return [], validate(prompt, nodes, strict)
    except PromptError as error:
        return str(error).splitlines(), []


def _unknown(prompt: Prompt, nodes: Catalog) -> list[str]:
    found = []
    for id in prompt:
        try:
            check_type(prompt, id, nodes)
        except PromptError as error:
            found.append(str(error))
    return found


def _ignored(prompt: Prompt, order: list[str], nodes: Catalog) -> list[str]:
    found, known = [], Classes(nodes)
    for id in order:
        schema = known[prompt[id]["class_type"]].schema
        for error in unknown_inputs(prompt[id], schema):
            found.append(f"{title(prompt, id)}: {error['message']}: {error['details']}")
    return found


def _idle(prompt: Prompt, order: list[str]) -> list[str]:
    running = set(order)
    return [f"{title(prompt, id)} leads to no output, so it does not run" for id in prompt if id not in running]


def _backends(prompt: Prompt, order: list[str]) -> list[str]:
    found = []
    for id in order:
        inputs = prompt[id]["inputs"]
        names = [inputs["backend"]] if isinstance(inputs.get("backend"), str) else []
        if prompt[id]["class_type"] == BACKEND_RULES and isinstance(inputs.get("rules"), str):
            names += [rule.backend for rule in parse_rules(inputs["rules"])]
        for name in dict.fromkeys(names):
            declared = registry.get(name)
            reason = declared.absent() if declared is not None else None
            if reason is not None:
                found.append(f"{title(prompt, id)}: {name} cannot run on this machine and falls back: {reason}")
    return found


def _addresses(prompt: Prompt, order: list[str], folders: Folders) -> list[str]:
    """Hold the block addresses against the model that each node gets, as far as its file tells."""
    models: dict[str, Any] = {}
    found = []
    for id in order:
        address = prompt[id]["inputs"].get("blocks")
        loader = loader_of(prompt, id) if isinstance(address, str) else None
        if loader is None:
            continue
        if loader not in models:
            models[loader] = loaded(prompt[loader], folders)
        try:
            if models[loader] is not None:
                check_address(parse(str(address)), models[loader])
        except AddressError as error:
            found.append(f"{title(prompt, id)}: {error}")
        except CheckpointError as error:
            found.append(f"{title(prompt, loader)}: {error}")
    return found
