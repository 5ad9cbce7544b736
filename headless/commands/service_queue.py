"""`patchbay queue` on a service: the Comfy API v2, or an endpoint that speaks as RunPod's do."""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from typing import Any

from ..api.folders import check_output
from ..engine.errors import FAILED, USER_ERROR, Failure
from ..engine.workflow import assign
from ..pages.page_widgets import types_of
from ..pages.server import download, upload
from ..pages.workflow_file import embedded_infos, infos_in, load
from .compare import compare
from .run_files import saves
from .service import check_known, on_service


def queue_on_service(args: argparse.Namespace) -> int:
    """Run `patchbay queue` on a service."""
    infos = embedded_infos() if args.nodes is None else infos_in(args.nodes)
    prompt = load(args.workflow, lambda: infos)
    assign(prompt, args.set, partial(types_of, infos))
    compare(prompt, args.compare)
    check_known(args, prompt, infos)
    if saves(prompt) and not args.no_wait:
        check_output(args.output)
    runner = on_service(args, args.server, infos)
    try:
        return _queue(args, prompt, runner)
    finally:
        runner.close()


def _queue(args: argparse.Namespace, prompt: Any, runner: Any) -> int:
    from ..client.job import ServerUnreachable
    from ..client.service import JobUnfinished, follow

    service, job, begin = runner.service, "", time.monotonic()
    try:
        upload(service, prompt, runner.infos, args.input)
        job = service.submit(prompt, runner.timeout)
        if args.no_wait:
            print(json.dumps({"prompt_id": job}) if args.json else job)
            return 0
        state = follow(service, job, runner.timeout, _Told(args.quiet or args.json))
        saved = [entry for entry in state.files if entry["type"] == "output"]
        files = [str(path) for path in download(service, saved, args.output)]
    except ServerUnreachable as error:
        raise Failure(f"{error}; the job is {job}" if job else str(error), USER_ERROR, "unreachable") from None
    except JobUnfinished as error:
        raise Failure(str(error), FAILED, "execution_error") from None
    times = {"seconds": round(time.monotonic() - begin, 3), "ran_seconds": state.seconds}
    times |= {"waited_seconds": state.waited, "cost": runner.cost(state)}
    _print(args, {"prompt_id": job, "images": files, **times})
    return 0


class _Told:
    """Says on stderr where the job is, whenever that changes."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.last = quiet, ""

    def __call__(self, state: Any) -> None:
        if state.status != self.last and not self.quiet:
            print(state.status, file=sys.stderr)
        self.last = state.status


def _print(args: argparse.Namespace, result: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for file in result["images"]:
        print(file)
    parts = [f"{result['ran_seconds']:.1f} s, {result['waited_seconds'] or 0.0:.1f} s before that"]
    parts += [f"cost {result['cost']:.4f}"] if result["cost"] is not None else []
    print(", ".join(parts), file=sys.stderr)
