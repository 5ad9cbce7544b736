"""The command `patchbay`: run workflows and list nodes without ComfyUI."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...ldm_patched.modules.model_management import InterruptProcessingException
from ..api.folders import Folders
from ..api.session import Session, entered
from ..engine import workflow
from ..engine.api_graph import Executor, NodeError, Run
from ..engine.errors import FAILED, INTERRUPTED, USER_ERROR, Failure
from ..engine.progress import Progress
from ..pages.workflow_file import WORKFLOW, embedded_infos, load
from . import check, convert, diff, info, queue, sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 a node failed, 2 the input is wrong, 130 Ctrl-C."""
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        return args.run(args)
    except workflow.PromptError as error:
        return _fail(args, USER_ERROR, str(error), {"error": error.error, "node_errors": error.node_errors})
    except NodeError as error:
        code = USER_ERROR if isinstance(error.__cause__, (ValueError, FileNotFoundError)) else FAILED
        return _fail(args, code, str(error), {"error": {"type": "execution_error", "message": str(error)}})
    except BrokenPipeError:  # the reader of the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Failure as error:
        return _fail(args, error.code, str(error), {"error": {"type": error.kind, "message": str(error)}})
    except (KeyboardInterrupt, InterruptProcessingException):
        return _fail(args, INTERRUPTED, "interrupted", {"error": {"type": "interrupted", "message": "interrupted"}})


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="patchbay", description="Attention Patchbay without ComfyUI.")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a workflow without ComfyUI")
    run.add_argument("workflow", type=Path, help=WORKFLOW)
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.input=value",
        help="set an input; NODE is an id, or a class or title that only one node has",
    )
    _add_surroundings(run)
    run.set_defaults(run=run_workflow)
    tune = commands.add_parser("tune", help="time the attention functions on the model of a workflow's sampler")
    tune.add_argument("workflow", type=Path, help=f"{WORKFLOW}; with one KSampler")
    tune.add_argument("--max-error", type=float, default=0.001, help="largest error against float64 (default 0.001)")
    tune.add_argument("--seconds", type=float, default=30.0, help="about how long to measure (default 30)")
    tune.add_argument("--again", action="store_true", help="measure again what is known already")
    _add_surroundings(tune)
    tune.set_defaults(run=tune_attention)
    nodes = commands.add_parser("nodes", help="list every node with its inputs, defaults and tooltips")
    nodes.add_argument("--json", action="store_true", help="print them as ComfyUI's /object_info")
    nodes.set_defaults(run=list_nodes)
    convert.add_parser(commands)
    queue.add_parser(commands)
    sweep.add_parser(commands)
    check.add_parser(commands)
    diff.add_parser(commands)
    info.add_parser(commands)
    return top


def _add_surroundings(command: argparse.ArgumentParser) -> None:
    for name, what in (("models", "models folder, as ComfyUI's"), ("input", "folder of input pictures")):
        command.add_argument(f"--{name}", type=Path, default=Path(name), metavar="DIR", help=what)
    command.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="folder for the pictures")
    command.add_argument(
        "--bf16-unet", action="store_true", help="compute the UNet in bfloat16: faster on many CPUs, less exact"
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress")


# patchbay run


def run_workflow(args: argparse.Namespace) -> int:
    """Run `patchbay run`."""
    prompt = load(args.workflow, embedded_infos)
    workflow.assign(prompt, args.set)
    folders = Folders(args.models, args.input, args.output)
    start = time.perf_counter()
    run = _execute(args, folders, prompt)
    seconds = round(time.perf_counter() - start, 3)
    files = [str(_path(folders, entry)) for ui in run.ui.values() for entry in ui.get("images", [])]
    if args.json:
        print(json.dumps({"outputs": run.ui, "images": files, "ran": run.ran, "seconds": seconds}, indent=1))
    else:
        _print_run(run, files, seconds)
    return 0


def _execute(args: argparse.Namespace, folders: Folders, prompt: workflow.Prompt) -> Run:
    from ..engine.catalog import catalog

    progress = Progress(args.quiet or args.json)
    try:
        session = Session(folders, progress.step, torch.bfloat16 if args.bf16_unet else None)
        return Executor(catalog(), session).run(prompt, on_node=progress.node)
    finally:
        progress.close()


def _print_run(run: Run, files: list[str], seconds: float) -> None:
    for ui in run.ui.values():
        for text in ui.get("text", []):
            print(text, end="\n\n")
    for file in files:
        print(file)
    print(f"{len(run.ran)} nodes in {seconds:.1f} s", file=sys.stderr)


def _path(folders: Folders, entry: dict[str, str]) -> Path:
    folder = folders.output if entry["type"] == "output" else folders.temp
    return folder / entry["subfolder"] / entry["filename"]


def _fail(args: argparse.Namespace, code: int, text: str, data: dict[str, Any]) -> int:
    if args.json:
        print(json.dumps(data, indent=1, default=repr))
    print(f"patchbay: {text}", file=sys.stderr)
    return code


# patchbay tune


def tune_attention(args: argparse.Namespace) -> int:
    """Run `patchbay tune`."""
    widgets = {"max_error": args.max_error, "seconds": args.seconds, "again": args.again}
    prompt = workflow.tuning(load(args.workflow, embedded_infos), widgets)
    run = _execute(args, Folders(args.models, args.input, args.output), prompt)
    (ui,) = run.ui.values()
    print(json.dumps({"rules": ui["rules"][0], "text": ui["text"][0]}, indent=1) if args.json else ui["text"][0])
    return 0


# patchbay nodes


def list_nodes(args: argparse.Namespace) -> int:
    """Run `patchbay nodes`."""
    from ..engine.catalog import catalog

    with entered(Session()):
        infos = {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items()}
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
        parts.append("one of " + " ".join(map(str, settings["options"])))
    if "min" in settings:
        parts.append(f"{settings['min']} to {settings['max']}")
    if "default" in settings:
        parts.append(f"default {settings['default']!r}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
