"""`patchbay run --serve-stdin`: a process that keeps its models, for scripts in any language: JSON lines in and out."""

from __future__ import annotations

import argparse
import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from ...ldm_patched.modules import model_management
from ...ldm_patched.modules.model_management import InterruptProcessingException
from ..api.folders import Folders, check_output
from ..api.session import Session
from ..engine.api_graph import Executor
from ..engine.errors import Failure, NodeError
from ..engine.workflow import MAX_BYTES, Prompt, PromptError, check, find_input, problem, short
from ..pages.convert import is_page_format, to_api
from ..pages.workflow_file import embedded_infos, load
from .run_files import files_of, saves
from .unet_dtype import unet_dtype

STEP = 0.1  # seconds between two events of steps
ENTRIES = ("id", "workflow", "set", "output")


class Jobs:
    """The jobs of standard input in their order; a thread reads on while one runs, for the sake of those called off."""

    def __init__(self, lines: TextIO) -> None:
        self.waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.lock, self.running = threading.Lock(), object()
        self.ids, self.off = list[Any](), list[Any]()  # of the jobs that wait, and of those called off
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give each job; an entry `wrong` says why a line is none."""
        while (job := self.waiting.get()) is not None:
            yield job

    def begin(self, id: Any) -> bool:
        """Note which job runs; return False for one that was called off."""
        with self.lock:
            self.ids.remove(id)
            if id in self.off:
                self.off.remove(id)
                return False
            model_management.interrupt_current_processing(False)
            self.running = id
            return True

    def end(self) -> None:
        """Note that no job runs."""
        with self.lock:
            self.running = object()
            model_management.interrupt_current_processing(False)

    def _read(self, lines: TextIO) -> None:
        try:
            while line := lines.readline(MAX_BYTES):
                if line.strip():
                    self._take(_job(line))
        finally:
            self.waiting.put(None)

    def _take(self, job: dict[str, Any]) -> None:
        with self.lock:
            if "cancel" not in job:
                if "wrong" not in job:
                    self.ids.append(job["id"])
                self.waiting.put(job)
            elif job["cancel"] == self.running:
                model_management.interrupt_current_processing()
            elif job["cancel"] in self.ids:  # not one that is over: the next of that name would not run
                self.off.append(job["cancel"])


def _job(line: str) -> dict[str, Any]:
    try:
        job = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"id": None, "wrong": f"not JSON: {error}"}
    if not isinstance(job, dict):
        return {"id": None, "wrong": 'not an object; write {"id": ..., "workflow": ...}'}
    if "cancel" in job:
        return job
    unknown = [name for name in job if name not in ENTRIES]
    if unknown or "workflow" not in job:
        what = f"unknown entry {short(unknown[0])!r}" if unknown else "no workflow"
        return {"id": job.get("id"), "wrong": f"{what}; a job has {', '.join(ENTRIES)}"}
    output = job.get("output", ".")
    if not isinstance(output, str) or not output.strip():
        return {"id": job.get("id"), "wrong": f"output {short(output)!r}: write the name of a folder"}
    return {"id": None, **job}


class Events:
    """JSON lines on what was standard output; nothing else gets there."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.lock, self.id, self.next = out, threading.Lock(), None, 0.0

    def tell(self, event: str, **about: Any) -> None:
        """Write an event, with the id of the job that runs."""
        line = json.dumps({"event": event, "id": self.id, **about}, default=repr)
        with self.lock:
            self.out.write(f"{line}\n")
            self.out.flush()

    def node(self, name: str) -> None:
        """Tell which node runs."""
        self.next = 0.0
        self.tell("node", node=name)

    def step(self, value: int, total: int) -> None:
        """Tell of a step; some are left out where they are quick, never the last."""
        if value >= total or time.monotonic() >= self.next:
            self.next = time.monotonic() + STEP
            self.tell("step", value=value, total=total)


class Logged(logging.Handler):
    """Tells of log lines as events."""

    def __init__(self, events: Events) -> None:
        super().__init__(logging.WARNING)
        self.events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of a line."""
        self.events.tell("log", level=record.levelname.lower(), logger=record.name, message=record.getMessage())


def serve(args: argparse.Namespace) -> int:
    """Run `patchbay run --serve-stdin` until its input ends; how a job ended is in its own events."""
    if args.workflow is not None or args.set or args.compare is not None:
        raise Failure("--serve-stdin: workflows and what is set in them come as lines of JSON; leave them out here")
    from ..engine.catalog import catalog

    events = Events(sys.stdout)
    sys.stdout = sys.stderr
    handler = Logged(events)
    logging.getLogger().addHandler(handler)
    folders = Folders(args.models, args.input, args.output)
    try:
        executor = Executor(catalog(), Session(folders, events.step, unet_dtype(args)), args.cache)
        events.tell("ready")
        jobs = Jobs(sys.stdin)
        for job in jobs:
            events.id = job["id"]
            _run(job, jobs, events, executor, folders)
            events.id = None
        events.tell("end")
    finally:
        logging.getLogger().removeHandler(handler)
        sys.stdout = events.out
    return 0


def _run(job: dict[str, Any], jobs: Jobs, events: Events, executor: Executor, folders: Folders) -> None:
    """Run a job; however it ends, it ends in one of the events done, failed and cancelled."""
    if "wrong" in job:
        events.tell("failed", error=problem("wrong_job", "This line is no job", job["wrong"]), node_errors={})
        return
    if not jobs.begin(job["id"]):
        events.tell("cancelled")
        return
    begin = time.perf_counter()
    try:
        own = replace(folders, output=Path(job["output"])) if "output" in job else folders
        executor.session = replace(executor.session, folders=own)
        prompt = _prompt(job)
        if saves(prompt):
            check_output(own.output)
        events.tell("started")
        run = executor.run(prompt, on_node=events.node)
    except PromptError as error:
        events.tell("failed", error=error.error, node_errors=error.node_errors)
    except (NodeError, Failure, OSError, ValueError, MemoryError) as error:
        events.tell("failed", error=problem("execution_error", str(error) or type(error).__name__), node_errors={})
    except InterruptProcessingException:
        events.tell("cancelled")
    else:
        about = {"images": files_of(own, run), "outputs": run.ui, "ran": run.ran, "cached": run.cached}
        seconds = round(time.perf_counter() - begin, 3)
        events.tell("done", seconds=seconds, **about, node_errors=run.refused)
    finally:
        jobs.end()


def _prompt(job: dict[str, Any]) -> Prompt:
    """Return the workflow of a job: JSON of either format, or the path of a file, with what is set in it."""
    given = job["workflow"]
    if isinstance(given, str):
        prompt = load(Path(given), embedded_infos)
    else:
        prompt = check(to_api(given, embedded_infos()) if is_page_format(given) else given)
    settings = job.get("set", {})
    if not isinstance(settings, dict):
        raise PromptError(problem("wrong_job", "This line is no job", 'set: write {"NODE.input": value}'))
    for name, value in settings.items():
        node, _, input = name.rpartition(".")
        try:
            prompt[find_input(prompt, node, input, _types)[0]]["inputs"][input] = value
        except ValueError as error:
            raise PromptError(problem("wrong_job", f"set {short(name)}", str(error))) from None
    return prompt


def _types(kind: str) -> dict[str, Any] | None:
    from ..engine.catalog import catalog

    cls = catalog().get(kind)
    return None if cls is None else {entry.id: entry.io_type for entry in cls.GET_SCHEMA().inputs}
