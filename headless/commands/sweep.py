"""`patchbay sweep`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..api.folders import Folders
from ..engine.errors import DRIFTED, FAILED, Failure, require
from ..engine.workflow import Prompt, PromptError
from ..pages.page_widgets import Infos
from ..pages.workflow_file import WORKFLOW, embedded_infos, infos_in, load
from ..sweep.away import at_hand
from ..sweep.axes import Axis, IsText, parse_axis
from ..sweep.blocks import Map, each_block
from ..sweep.cells import Cell, cells, choices, listed, named, some, texts_of
from ..sweep.embedded import Embedded
from ..sweep.expect import DEFAULT
from ..sweep.messages import Messages, Progress
from ..sweep.remote import Remote
from ..sweep.repeats import repeats
from ..sweep.report import Report
from ..sweep.rounds import in_running_order
from ..sweep.runner import Outcome, Runner
from ..sweep.store import Store, opened
from ..sweep.study import Study
from ..sweep.workers import Told, run_all
from .access import access_of, add_access
from .places import add_input, add_models, filled, folder
from .service import add_service, check_known, check_service, on_service
from .sweep_results import count_drifts, expected_of, print_results


def add_sweep(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay sweep`."""
    command.add_argument("workflow", type=Path, help=WORKFLOW)
    axis = "NODE.input=a,b or =1..4 or =0:1:0.25 or =@file or =each(output), or NODE=on,bypass"
    command.add_argument("--axis", action="append", default=[], metavar="AXIS", help=axis)
    command.add_argument("--zip", action="append", default=[], metavar="A,B", help="axes that move together")
    command.add_argument("--list", type=Path, metavar="CSV", help="cells from a file, columns named NODE.input")
    command.add_argument("--random", type=int, metavar="N", help="only N of the cells, taken at random")
    command.add_argument("--sweep-seed", type=int, default=0, help="of --random (default 0)")
    baseline = "compare with the cell that has this value and is otherwise the same (default: the workflow as it is)"
    command.add_argument("--baseline", action="append", default=[], metavar="NODE.input=value", help=baseline)
    repeat = "run every cell with so many seeds, counted up from the workflow's, and say how sure it is (default 1)"
    command.add_argument("--repeat", type=int, default=1, metavar="N", help=repeat)
    prompts = "run every cell with each prompt of a file, one in a line; NODE.input= names the text they are for"
    command.add_argument("--prompts", default="", metavar="[NODE.input=]FILE", help=prompts)
    floor = "the noise floor: compute each baseline once more by this exact attention function, such as sub_quad"
    command.add_argument("--floor", default="", metavar="KERNEL", help=floor)
    expect = "the folder of an earlier sweep, or a picture: end in exit code 3 where a picture is further from it"
    command.add_argument("--expect", type=Path, metavar="DIR|FILE", help=expect)
    bound = (
        f"how far, as a number of the table: mean, max (levels), psnr, ssim, lpips; all must hold (default {DEFAULT})"
    )
    command.add_argument("--bound", action="append", default=[], metavar="NAME=X", help=bound)
    add_running(command, "sweep")
    command.set_defaults(run=sweep)


def add_running(command: argparse.ArgumentParser, own: str) -> None:
    """Add what says where cells run, who is told of them, and to which folder their results go."""
    where = f"of the results; an address of fsspec too, such as s3://bucket/sweep (default {own})"
    command.add_argument("--folder", type=filled, default=own, metavar="DIR", help=where)
    on_cell = "run this for each finished cell, which it gets as JSON on standard input"
    command.add_argument("--on-cell", default="", metavar="COMMAND", help=on_cell)
    webhook = "post each finished cell, and the end, to this address as JSON"
    command.add_argument("--webhook", default="", metavar="URL", help=webhook)
    server = "a ComfyUI, or a service: sdk+URL (Comfy API v2), runpod+URL (an endpoint); several share the cells"
    command.add_argument("--server", action="append", default=[], metavar="URL", help=server)
    add_service(command)
    command.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster (auto, local, or its address); with --server by actors"
    )
    add_models(command)
    add_input(command)
    cache = "where processes find each other's texts and references (default: cache, in the folder of the sweep)"
    command.add_argument("--cache", type=folder, metavar="DIR", help=cache)
    command.add_argument("--retry-failed", action="store_true", help="run cells again that failed")
    command.add_argument("--json", action="store_true", help="print the table as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress")
    add_access(command)


def sweep(args: argparse.Namespace) -> int:
    """Run `patchbay sweep`."""
    require("sweep")
    expected, messages = expected_of(args), Messages(args.on_cell, args.webhook, args.folder)
    check_service(args)
    infos = infos_of(args)
    prompt = load(args.workflow, lambda: infos)
    check_known(args, prompt, infos)
    all, study = planned(args, prompt, infos)
    with at_hand(args.folder) as (folder, away):
        with opened(folder, all, study, away) as store:
            rows, settings = run_cells(args, prompt, infos, store, messages)
        drifted = count_drifts(store, rows, all, *expected) if expected else 0
    print_results(args, rows, settings)
    if any(row["error"] for row in rows):
        return FAILED
    return DRIFTED if drifted else 0


def run_cells(
    args: argparse.Namespace, prompt: Prompt, infos: Infos, store: Store, messages: Messages
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run what waits, and return the table and its settings."""
    waiting = in_running_order(prompt, store.waiting(args.retry_failed))
    total = len(store.cells)
    progress, report = Progress(total - len(waiting), total, args.quiet or args.json), Report(store)

    def told(cell: Cell, outcome: Outcome) -> None:
        progress.cell(cell, outcome)
        messages.cell(cell, outcome, progress.done, total)
        report.update()

    try:
        _run(args, waiting, infos, store, told)
    except KeyboardInterrupt:
        kept = f"{progress.done} of {total} cells are kept in {args.folder}; the same command goes on"
        print(f"patchbay: {kept}", file=sys.stderr)
        raise
    finally:
        progress.close()
        rows = report.write()
        messages.end(progress.done, total, sum(bool(row["error"]) for row in rows))
    return rows, report.settings


def planned(args: argparse.Namespace, prompt: Prompt, infos: Infos) -> tuple[list[Cell], Study]:
    """Return the cells, after checking every one of them, and what they are to find out.

    Raises Failure and PromptError.
    """
    again = repeats(prompt, infos, args.repeat, args.prompts)
    if bool(args.axis) == bool(args.list) and not (again.names and not args.axis):
        raise Failure("give --axis, or --list with a file; one of them")
    is_text = texts_of(prompt, infos)
    maps: dict[str, Map] = {}
    if args.list:
        found = listed(args.list, is_text)
    else:
        axes = [_axis(args, prompt, text, is_text, maps) for text in args.axis]
        found = choices(axes, [names.split(",") for names in args.zip]) if axes else []
    if args.random is not None and args.random < 1:
        raise Failure(f"--random {args.random}: write how many cells to take, from 1 on")
    if args.random is not None:
        found = some(found, args.random, args.sweep_seed)
    first: dict[str, Any] = {}
    for text in args.baseline:
        try:
            axis = parse_axis(text, is_text)
        except Failure as error:
            raise Failure(f"--baseline{str(error).removeprefix('--axis')}") from None
        if len(axis.values) != 1:
            raise Failure(f"--baseline {text}: write one value")
        first[axis.name] = axis.values[0]
    all = cells(prompt, found, infos, first, again, args.floor)
    check_cells(all, args, infos)
    return all, Study(again.seeds, again.text, args.floor, maps)


def _axis(args: argparse.Namespace, prompt: Prompt, text: str, is_text: IsText, maps: dict[str, Map]) -> Axis:
    """Read an axis; the map of the model that `each(...)` goes over is added to the maps."""
    found: list[Map] = []

    def each(node: str, address: str) -> tuple[str, ...]:
        names, blocks = each_block(prompt, node, address, _folders(args))
        found.append(blocks)
        return names

    axis = parse_axis(text, is_text, each)
    if found:
        maps[axis.name] = found[0]
    return axis


def _folders(args: argparse.Namespace) -> Folders:
    return Folders(args.models.resolve(), args.input.resolve(), Path("sweep"))  # each cell gets its own output


def check_cells(all: Sequence[Cell], args: argparse.Namespace, infos: Infos) -> None:
    """Raise Failure for the first cell that cannot run."""
    from ..api.session import Session, entered
    from ..engine.catalog import catalog
    from ..engine.validate import validate
    from ..pages.described import described
    from ..pages.server import is_service

    nodes: Any = described(infos, not any(map(is_service, args.server))) if args.server else catalog()
    for cell in all:
        try:
            with entered(Session(_folders(args))):
                validate(cell.prompt, nodes, strict=not args.server)
        except PromptError as error:
            raise Failure(f"the cell {named(cell.choice)} cannot run: {error}") from None


def infos_of(args: argparse.Namespace) -> Infos:
    """Return the nodes of a file, of the first ComfyUI that answers, or of the embedded host."""
    from ..pages.server import is_service, server_infos

    if args.nodes is not None:
        return infos_in(args.nodes)
    urls = [url for url in args.server if not is_service(url)]
    for url in urls[:-1]:
        with contextlib.suppress(Failure):
            return server_infos(url, access_of(args))
    return server_infos(urls[-1], access_of(args)) if urls else embedded_infos()


def _run(args: argparse.Namespace, waiting: list[Cell], infos: Infos, store: Store, told: Told) -> None:
    if not waiting:
        return
    cache = (args.cache or store.folder / "cache").resolve()
    with contextlib.ExitStack() as stack:
        if args.ray:
            from ..sweep.on_ray import cluster, run_tasks

            ray = stack.enter_context(cluster(args.ray))
            if not args.server:
                run_tasks(ray, waiting, _folders(args), cache, store, told)
                return
        runners: list[Runner] = []
        for url in args.server:
            runner = _runner(args, url, infos, ray if args.ray else None)
            runners.append(stack.enter_context(contextlib.closing(runner)))
        run_all(waiting, runners or [Embedded(_folders(args), cache=cache)], store, told)


def _runner(args: argparse.Namespace, url: str, infos: Infos, ray: Any) -> Any:
    from ..pages.server import is_service

    if is_service(url):
        return on_service(args, url, infos)
    if ray is None:
        return Remote(url, args.input, access_of(args))
    from ..sweep.ray_servers import RayServer

    return RayServer(ray, url, args.input, access_of(args))
