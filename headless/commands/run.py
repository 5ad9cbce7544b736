"""`patchbay run` and `nodes`: what needs the embedded host and no more."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...ldm_patched.modules.model_management import InterruptProcessingException
from ..api.folders import Folders, check_output
from ..api.session import Session, entered
from ..engine import workflow
from ..engine.api_graph import Executor, Run
from ..engine.errors import Failure
from ..engine.progress import Progress
from ..engine.workflow import one_line
from ..pages.page_widgets import types_of
from ..pages.workflow_file import WORKFLOW, embedded_infos, load
from .compare import add_compare, compare
from .coverage import coverage
from .places import add_input, add_models, add_output, folder
from .run_files import files_of, saves
from .serve import serve
from .unet_dtype import add_unet_dtype, unet_dtype


def add_run(run: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay run`."""
    run.add_argument("workflow", type=Path, nargs="?", help=WORKFLOW)
    served = (
        "run workflows that come as lines of JSON on standard input, and keep the models; events go out as such lines"
    )
    run.add_argument("--serve-stdin", action="store_true", help=served)
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.input=value",
        help="set an input; NODE is an id, or a class or title that only one node has",
    )
    add_compare(run)
    add_output(run)
    add_surroundings(run)
    run.set_defaults(run=run_workflow)


def add_nodes(nodes: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay nodes`."""
    nodes.add_argument("--json", action="store_true", help="print them as ComfyUI's /object_info")
    nodes.add_argument(
        "--coverage", action="store_true", help="say which of the most used core nodes of image workflows run here"
    )
    nodes.set_defaults(run=list_nodes)


def add_surroundings(command: argparse.ArgumentParser) -> None:
    """Add what the embedded host needs to know."""
    add_models(command)
    add_input(command)
    add_unet_dtype(command)
    cache = "keep encoded texts and references in this folder, up to 2 GiB, and take what another process left there"
    command.add_argument("--cache", type=folder, metavar="DIR", help=cache)
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress")


# patchbay run


def run_workflow(args: argparse.Namespace) -> int:
    """Run `patchbay run`."""
    if args.serve_stdin:
        return serve(args)
    if args.workflow is None:
        raise Failure("patchbay run: write the file of a workflow, or --serve-stdin")
    prompt = load(args.workflow, embedded_infos)
    infos = embedded_infos() if args.set else {}
    workflow.assign(prompt, args.set, partial(types_of, infos))
    compare(prompt, args.compare)
    folders = Folders(args.models, args.input, args.output)
    if saves(prompt):
        check_output(args.output)
    start = time.perf_counter()
    run = execute(args, folders, prompt)
    seconds = round(time.perf_counter() - start, 3)
    say_refused(run.refused)
    files = files_of(folders, run)
    if args.json:
        about = {"outputs": run.ui, "images": files, "ran": run.ran, "seconds": seconds, "node_errors": run.refused}
        print(json.dumps(about, indent=1, default=repr))
    else:
        _print_run(run, files, seconds)
    return 0


def say_refused(node_errors: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell of nodes that are wrong, so that the outputs behind them were left out."""
    for text in refused(node_errors):
        print(f"patchbay: {one_line(text)}; what needs it is left out", file=sys.stderr)


def refused(node_errors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with nodes, a sentence for each fault."""
    return [
        f"{node['name']}: {error['message']}: {error['details']}"
        for node in node_errors.values()
        for error in node["errors"]
    ]


def execute(args: argparse.Namespace, folders: Folders, prompt: workflow.Prompt) -> Run:
    """Run a workflow on the embedded host."""
    from ..engine.catalog import catalog

    progress = Progress(args.quiet or args.json)
    try:
        session = Session(folders, progress.step, unet_dtype(args))
        return Executor(catalog(), session, args.cache).run(prompt, on_node=progress.node)
    except InterruptProcessingException:
        raise KeyboardInterrupt from None
    finally:
        progress.close()


def _print_run(run: Run, files: list[str], seconds: float) -> None:
    texts = (text for ui in run.ui.values() for text in ui.get("text", []))
    for text in dict.fromkeys(texts):  # two nodes that compare the same pictures say the same
        print(text, end="\n\n")
    for file in files:
        print(file)
    print(f"{len(run.ran)} nodes in {seconds:.1f} s", file=sys.stderr)


# patchbay nodes


def list_nodes(args: argparse.Namespace) -> int:
    """Run `patchbay nodes`."""
    from ..engine.catalog import catalog

    with entered(Session()):
        infos = {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items()}
    if args.coverage:
        found = coverage(infos)
        print(json.dumps({**found._asdict(), "share": found.share}, indent=1) if args.json else found.text())
        return 0
    if args.json:
        print(json.dumps(infos, indent=1))
        return 0
    for name, node in infos.items():
        print(f"{name} - {node['display_name']}: {node['description']}")
        for kind in ("required", "optional"):
            for entry, (type, settings) in node["input"].get(kind, {}).items():
                print(f"  {entry} ({_describe(type, settings)}): {settings.get('tooltip', '')}")
        print(f"  -> {', '.join(node['output']) or 'nothing'}\n")
    return 0


def _describe(type: str, settings: dict[str, Any]) -> str:
    parts = [type]
    if "options" in settings:
        parts.append(f"one of {' '.join(map(str, settings['options']))}" if settings["options"] else "no file here")
    if "min" in settings:
        parts.append(f"{settings['min']} to {settings['max']}" if "max" in settings else f"{settings['min']} or more")
    if "default" in settings:
        parts.append(f"default {settings['default']!r}")
    return ", ".join(parts)
