"""`patchbay queue`: a workflow on a ComfyUI server, from the upload of its pictures to the download of its results."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import FAILED, INTERRUPTED, USER_ERROR, Failure
from .folders import inside
from .page_widgets import UPLOADS, Infos, inputs_of
from .progress import Progress
from .prompt import Prompt, assign, title
from .workflow_file import WORKFLOW, load

DEFAULT = "http://127.0.0.1:8188"


def add_parser(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser("queue", help="run a workflow on a ComfyUI server")
    command.add_argument("workflow", type=Path, help=WORKFLOW)
    command.add_argument("--set", action="append", default=[], metavar="NODE.input=value", help="set an input")
    command.add_argument("--server", default=DEFAULT, metavar="URL", help=f"the server (default {DEFAULT})")
    command.add_argument("--input", type=Path, default=Path("input"), metavar="DIR", help="folder of input pictures")
    command.add_argument("--output", type=Path, default=Path("output"), metavar="DIR", help="folder for the pictures")
    command.add_argument("--no-wait", action="store_true", help="print the id of the job and leave it to the server")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress")
    command.set_defaults(run=queue)


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """Open a client of a server, with its failures in the words and codes of the command line."""
    try:
        from . import client as library
    except ModuleNotFoundError as error:
        raise Failure(f'{error.name} is missing; pip install "attention-patchbay[client]"') from None
    try:
        with library.Client(url) as client:
            yield client
    except (library.ServerUnreachable, ValueError) as error:
        if isinstance(error, ValueError) and not str(error).startswith(repr(url)):
            raise
        raise Failure(str(error), USER_ERROR, "unreachable") from None
    except (library.JobFailed, library.JobLost) as error:
        raise Failure(str(error), FAILED, "execution_error") from None
    except library.JobInterrupted as error:
        raise Failure(str(error), INTERRUPTED, "interrupted") from None


def queue(args: argparse.Namespace) -> int:
    """Run `patchbay queue`."""
    with connected(args.server) as client:
        infos = client.object_info()
        prompt = load(args.workflow, lambda: infos)
        assign(prompt, args.set)
        upload(client, prompt, infos, args.input)
        if args.no_wait:
            prompt_id = client.submit(prompt)
            print(json.dumps({"prompt_id": prompt_id}) if args.json else prompt_id)
            return 0
        begin = time.monotonic()
        result = _run(client, prompt, args.quiet or args.json)
        saved = [entry for entry in result.images() if entry.get("type") == "output"]
        files = [str(path) for path in download(client, saved, args.output)]
        _print(args, result, files, round(time.monotonic() - begin, 3))
    return 0


def upload(client: Any, prompt: Prompt, infos: Infos, folder: Path) -> None:
    """Put the pictures that nodes load onto a server that lacks them."""
    for node in prompt.values():
        for name, entry in inputs_of(infos.get(node.get("class_type", ""), {})):
            settings = entry[1] if len(entry) > 1 else {}
            value = node["inputs"].get(name)
            if not any(settings.get(kind) for kind in UPLOADS) or not isinstance(value, str):
                continue
            there = entry[0] if isinstance(entry[0], list) else settings.get("options", [])
            if value not in there and inside(folder, value).is_file():
                node["inputs"][name] = client.upload(inside(folder, value), value)
                there.append(value)  # the next workflow finds it


def _run(client: Any, prompt: Prompt, quiet: bool) -> Any:
    from .client import Node, Queued, Step  # the extra `client` brings what they need

    progress = Progress(quiet)

    def show(event: Any) -> None:
        if isinstance(event, Node):
            progress.node(title(prompt, event.node) if event.node in prompt else f"node {event.node}")
        elif isinstance(event, Step):
            progress.step(event.value, event.total)
        elif isinstance(event, Queued) and event.position and not quiet:
            print(f"{event.position} jobs before this one", file=sys.stderr)

    try:
        return client.run(prompt, show)
    finally:
        progress.close()


def download(client: Any, entries: Iterable[dict[str, str]], folder: Path) -> Iterator[Path]:
    """Write files that a job made to a folder; names that lead out of it are refused."""
    for entry in entries:
        path = inside(folder, "/".join(part for part in (entry.get("subfolder", ""), entry["filename"]) if part))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            unfinished.write_bytes(client.fetch(entry))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        yield path


def _print(args: argparse.Namespace, result: Any, files: list[str], seconds: float) -> None:
    if args.json:
        about = {"prompt_id": result.prompt_id, "outputs": result.outputs, "images": files, "seconds": seconds}
        print(json.dumps({**about, "node_seconds": result.seconds, "cached": result.cached}, indent=1))
        return
    for text in result.texts():
        print(text, end="\n\n")
    for file in files:
        print(file)
    print(f"{len(result.seconds)} nodes in {seconds:.1f} s", file=sys.stderr)
