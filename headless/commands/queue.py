"""`patchbay queue`: a workflow on a ComfyUI server, from the upload of its images to the download of its results."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..api.folders import check_output
from ..engine.errors import USER_ERROR, Failure
from ..engine.progress import Progress
from ..engine.workflow import Prompt, assign, one_line, shown, title
from ..pages.page_widgets import types_of
from ..pages.server import connected, download, is_service, upload
from ..pages.workflow_file import WORKFLOW, infos_in, load
from .access import access_of, add_access
from .compare import add_compare, compare
from .places import add_input, add_output
from .run import say_refused
from .run_files import saves
from .service import add_service, check_service
from .service_queue import queue_on_service

DEFAULT = "http://127.0.0.1:8188"


def add_queue(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay queue`."""
    command.add_argument("workflow", type=Path, help=WORKFLOW)
    command.add_argument("--set", action="append", default=[], metavar="NODE.input=value", help="set an input")
    add_compare(command)
    server = f"a ComfyUI, or a service: sdk+URL (Comfy API v2), runpod+URL (an endpoint) (default {DEFAULT})"
    command.add_argument("--server", default=DEFAULT, metavar="URL", help=server)
    add_service(command)
    add_input(command)
    add_output(command)
    command.add_argument("--no-wait", action="store_true", help="print the id of the job and leave it to the server")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress")
    add_access(command)
    command.set_defaults(run=queue)


def queue(args: argparse.Namespace) -> int:
    """Run `patchbay queue`."""
    check_service(args)
    if is_service(args.server):
        return queue_on_service(args)
    with connected(args.server, access_of(args)) as client:
        infos = infos_in(args.nodes) if args.nodes is not None else client.object_info()
        prompt = load(args.workflow, lambda: infos)
        assign(prompt, args.set, partial(types_of, infos))
        compare(prompt, args.compare)
        if saves(prompt) and not args.no_wait:
            check_output(args.output)
        upload(client, prompt, infos, args.input)
        if args.no_wait:
            prompt_id = client.submit(prompt)
            print(json.dumps({"prompt_id": prompt_id}) if args.json else prompt_id)
            return 0
        begin = time.monotonic()
        result = _run(client, prompt, args.quiet or args.json)
        say_refused(result.refused)
        saved = [entry for entry in result.images() if entry.get("type") == "output"]
        try:
            files = [str(path) for path in download(client, saved, args.output)]
        except ConnectionError as error:
            text = f"{error}; the job {result.prompt_id} is done, its files are on the server"
            raise Failure(text, USER_ERROR, "unreachable") from None
        _print(args, result, files, round(time.monotonic() - begin, 3))
    return 0


def _run(client: Any, prompt: Prompt, quiet: bool) -> Any:
    from ..client import Node, Queued, Step  # the extra `client` brings what they need

    progress = Progress(quiet)

    def show(event: Any) -> None:
        if isinstance(event, Node):
            progress.node(one_line(title(prompt, event.node) if event.node in prompt else f"node {event.node}"))
        elif isinstance(event, Step):
            progress.step(event.value, event.total)
        elif isinstance(event, Queued) and event.position and not quiet:
            print(f"{event.position} jobs before this one", file=sys.stderr)

    try:
        return client.run(prompt, show)
    finally:
        progress.close()


def _print(args: argparse.Namespace, result: Any, files: list[str], seconds: float) -> None:
    if args.json:
        about = {"prompt_id": result.prompt_id, "outputs": result.outputs, "images": files, "seconds": seconds}
        print(
            json.dumps(
                {**about, "node_seconds": result.seconds, "cached": result.cached, "node_errors": result.refused},
                indent=1,
            )
        )
        return
    for text in result.texts():
        print(shown(text), end="\n\n")
    for file in files:
        print(file)
    print(f"{len(result.seconds)} nodes in {seconds:.1f} s", file=sys.stderr)
