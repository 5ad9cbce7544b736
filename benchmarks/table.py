"""Measure what choosing attention gives: whole steps of real sizes, from the host's default to tuned rules.

    python benchmarks/table.py RAW.jsonl [--rows NAME ...] [--columns NAME ...] [--steps N] [--device D] [--dtype D]
    python benchmarks/table.py RAW.jsonl --table [of the same]

Each cell is a line of RAW.jsonl as soon as it is measured; run the same command again to go on where it was ended, by
Ctrl-C or otherwise. Rows of ComfyUI need COMFYUI_PATH, a checkout, and COMFYUI_PYTHON, its interpreter. A row runs in a
process of its own. Any row has a small one, NAME-small, to see that it runs; `demo` and `comfyui-demo` take seconds. A
column may also be the name of an attention function. docs/performance.md says what the columns of the table mean.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.patches.routing.tuning_store import machine
from command_line import count
from results import append_line, drop_half_line, read_lines
from table_cells import cells, place
from table_columns import COLUMNS, column
from table_rows import ROWS, USUAL
from table_text import tables

PACK = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("table_child.py")
NEEDED = ("COMFYUI_PATH", "COMFYUI_PYTHON")
STEPS = 20
SHOWN_SECONDS = 2.0


def environment(host: str, device: str, folder: str) -> dict[str, str]:
    """Return that of a child; its packages are found whatever the folder of this pack is called."""
    paths = [folder, os.environ.get("PYTHONPATH", "")]
    if host == "comfyui":
        paths.insert(0, str(Path(os.environ["COMFYUI_PATH"]).resolve()))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return {**env, "CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else env


def lines_of(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run a job in a process of its own and yield its lines, {} every two seconds; {"failed": words} if it dies."""
    python = os.environ["COMFYUI_PYTHON"] if job["host"] == "comfyui" else sys.executable
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        (Path(folder) / "attention_patchbay").symlink_to(PACK)
        command, env = [python, str(CHILD), json.dumps(job)], environment(job["host"], job["device"], folder)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": said, "text": True}
        with subprocess.Popen(command, env=env, start_new_session=True, **pipes) as child:  # Ctrl-C is for this process
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=_hand_on, args=(child, lines), daemon=True).start()
            told = False
            try:
                while (line := _next(lines)) != "":
                    found = {} if line is None else json.loads(line)
                    told = told or "failed" in found
                    yield found
            finally:
                child.terminate()
        said.seek(0)
        if child.returncode and not told:
            yield {"failed": last_words(child.returncode, said.read())}


def _hand_on(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    child.wait()
    lines.put("")


def _next(lines: queue.Queue[str]) -> str | None:
    try:
        return lines.get(timeout=SHOWN_SECONDS)
    except queue.Empty:
        return None


def last_words(code: int, said: str) -> str:
    """Return why a child ended."""
    if code == -signal.SIGKILL:
        return "the process was killed, as a system does whose memory is used up"
    return f"the process ended with {code}: {' '.join(said.split())[-400:]}"


class Table:
    """The raw file, and what is to be measured into it."""

    def __init__(self, raw: Path, steps: int, device: str, dtype: str | None, full: bool) -> None:
        self.raw, self.steps, self.device, self.dtype, self.full = raw, steps, device, dtype, full
        facts = machine(device)
        self.on = facts["device"] if device == "cuda" else facts["cpu"].partition(": ")[2] or "a CPU"
        drop_half_line(raw)
        self.done = {place(line) for line in read_lines(raw)}
        self.began = time.monotonic()

    def about(self, name: str, of_column: str, measure: str) -> dict[str, Any]:
        """Return what is known of a cell before it is measured."""
        row = ROWS[name]
        known = {"measure": measure, "row": name, "column": of_column, "text": column(of_column).text}
        known |= {"title": row.title, "host": row.host, "blocks": row.blocks(self.full), "device": self.device}
        known |= {"dtype": self.dtype or row.dtype(self.device), "on": self.on, "steps": self.steps}
        return known | {"picture_steps": row.steps}

    def place(self, name: str, of_column: str, measure: str = "step") -> tuple[Any, ...]:
        """Return the place of a cell that may not be there yet."""
        return place(self.about(name, of_column, measure))

    def missing(self, name: str, columns: list[str], measure: str) -> list[str]:
        """Return the columns of a row that are not in the file."""
        return [one for one in columns if self.place(name, one, measure) not in self.done]

    def keep(self, name: str, of_column: str, measure: str, found: dict[str, Any]) -> None:
        """Append a line."""
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = {**self.about(name, of_column, measure), **found, "when": when}
        append_line(self.raw, line)
        self.done.add(place(line))
        self.say(f"{name} {of_column}, {measure}: {found.get('failed', 'kept')}", end="\n")

    def say(self, text: str, end: str = "") -> None:
        """Show how far it is; between two lines only where somebody looks."""
        if end or sys.stderr.isatty():
            seconds = time.monotonic() - self.began
            print(f"\r\x1b[K[{seconds:6.0f} s] {text}" if sys.stderr.isatty() else text, file=sys.stderr, end=end)
            sys.stderr.flush()

    def job(self, name: str, **more: Any) -> dict[str, Any]:
        """Return a job for a child."""
        row = ROWS[name]
        known = {"row": name, "host": row.host, "steps": self.steps, "device": self.device, "full": self.full}
        tuning = str(self.raw.with_suffix(".tuning.json").resolve())
        return {**known, "dtype": self.dtype or row.dtype(self.device), "tuning": tuning, **more}

    def measure(self, name: str, columns: list[str]) -> None:
        """Measure what is missing of a row; a child that dies takes the column with it that it was at."""
        while missing := self.missing(name, columns, "step"):
            at, failure, doing = None, None, "loading"
            for line in lines_of(self.job(name, columns=missing)):
                at, failure = line.get("begin", at), line.get("failed", failure)
                doing = line.get("doing", doing)
                self.say(" ".join(filter(None, [name, at])) + f": {doing}")
                if "cell" in line:
                    self.keep(name, line["cell"]["column"], "step", line["cell"])
                    at = None
            if failure is None:
                return
            for one in missing if at is None else [at]:
                if one in self.missing(name, columns, "step"):
                    self.keep(name, one, "step", {"failed": failure})

    def measure_peaks(self, name: str, columns: list[str]) -> None:
        """Measure the resident peak of each column in a process of its own."""
        measured = [line for line in read_lines(self.raw) if "rules" in line]
        rules = {line["column"]: line["rules"] for line in measured if place(line) == self.place(name, line["column"])}
        for one in self.missing(name, [one for one in columns if one in rules], "peak"):
            found: dict[str, Any] = {}
            for line in lines_of(self.job(name, peak=one, rules=rules[one])):
                self.say(f"{name} {one}: peak memory")
                found |= line.get("cell", {}) | ({"failed": line["failed"]} if "failed" in line else {})
            self.keep(name, one, "peak", found)


def runnable(names: list[str]) -> list[str]:
    """Return the rows whose host is there, and tell which are left out.

    Raises ValueError where the ComfyUI that is named cannot be used, or no row is left.
    """
    lacking = [name for name in NEEDED if name not in os.environ]
    of_comfyui = [name for name in names if ROWS[name].host == "comfyui"]
    if of_comfyui and not lacking:
        check_comfyui(os.environ["COMFYUI_PATH"], os.environ["COMFYUI_PYTHON"])
    elif of_comfyui:
        are = "is" if len(lacking) == 1 else "are"
        left = f"left out, as {' and '.join(lacking)} {are} not set: {', '.join(of_comfyui)}"
        if len(of_comfyui) == len(names):
            raise ValueError(left)
        print(left, file=sys.stderr)
    return [name for name in names if not (lacking and name in of_comfyui)]


def check_comfyui(path: str, python: str) -> None:
    """Raise ValueError where a Python cannot import ComfyUI from a path."""
    command, env = [python, "-c", "import torch, comfy.cli_args"], environment("comfyui", "cpu", "")
    try:
        tried = subprocess.run(command, env=env, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"COMFYUI_PYTHON: {python!r} cannot be started: {error.strerror}") from None
    if tried.returncode:
        why = tried.stderr.strip().rpartition("\n")[2]
        raise ValueError(f"no ComfyUI in COMFYUI_PATH {path!r} for COMFYUI_PYTHON {python!r}: {why}")


def arguments() -> argparse.Namespace:
    """Return what the command line asks for; ends the program where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, metavar="RAW.jsonl")
    parser.add_argument("--table", action="store_true", help="measure nothing: print the table of what is there")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), metavar="NAME")
    parser.add_argument("--columns", nargs="+", choices=(*COLUMNS, *registry.names()), metavar="NAME")
    parser.add_argument("--steps", type=count, help="timed steps of each cell (default 20)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: as people run the row")
    parser.add_argument("--full", action="store_true", help="all blocks of transformers, not a few")
    args = parser.parse_args()
    if args.device == "cuda" and not args.table and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA here")
    try:
        args.rows = args.rows if args.table else runnable(args.rows or list(USUAL))
        args.raw.open("rb" if args.table else "ab").close()
        cells(args.raw)
    except OSError as error:
        parser.error(f"{args.raw}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    return args


def asked_for(line: dict[str, Any], args: argparse.Namespace) -> bool:
    """Return whether a line is of the rows, columns and settings that are given."""
    given = {"row": args.rows, "column": args.columns, "steps": args.steps and [args.steps]}
    given |= {"device": args.device and [args.device], "dtype": args.dtype and [args.dtype]}
    given |= {"blocks": args.full and ["all blocks"]}
    return all(line[name] in some for name, some in given.items() if some)


def measure(args: argparse.Namespace) -> None:
    """Measure what is missing."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(args.raw, args.steps or STEPS, device, args.dtype, args.full)
    columns = args.columns or list(COLUMNS)
    for name in args.rows:
        table.measure(name, columns)
        if device == "cpu":
            table.measure_peaks(name, columns)


def main() -> int:
    """Measure and print the table."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # whoever started this may have let it ignore them
        signal.signal(ending, signal.default_int_handler)
    args = arguments()
    if args.table:
        found = [line for line in cells(args.raw) if asked_for(line, args)]
        if not found:
            print(f"{args.raw} has no cell of what was asked for", file=sys.stderr)
            return 2
        print(tables(found))
        return 0
    try:
        measure(args)
    except KeyboardInterrupt:
        print(f"\nended; what was measured is in {args.raw}: the same command goes on", file=sys.stderr)
        return 130
    print(tables(read_lines(args.raw)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
