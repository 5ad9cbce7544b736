"""The command `patchbay`. However it ends, it ends in its exit code, and on stderr in words instead of a traceback."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from importlib import import_module
from typing import Any, TextIO, cast

from ... import __version__
from ..engine.errors import FAILED, INTERRUPTED, TERMINATED, USER_ERROR, Failure, NodeError, code_of, missing
from ..engine.workflow import PromptError, shown
from .places import check_places

# Each command's module, which has `add_NAME` for its arguments, and what it does
COMMANDS = {
    "run": ("run", "run a workflow without ComfyUI"),
    "queue": ("queue", "run a workflow on a ComfyUI server, or a service"),
    "sweep": ("sweep", "run a workflow with many settings, measure and compare them"),
    "choose": ("choose", "ask people which of two pictures of a sweep is better, blind, and score the settings"),
    "convert": ("convert", "convert a workflow between the page's and the API format"),
    "check": ("check", "check a workflow without running it"),
    "diff": ("diff", "tell what differs between two workflows"),
    "info": ("info", "tell what a model file or a picture holds"),
    "lora": ("lora", "tell what blocks a LoRA has, what each changes in a picture, or save it with rules in it"),
    "tune": ("tune", "time the attention functions on the model of a workflow's sampler"),
    "kernels": ("kernels", "list the attention functions, or fetch one from Hugging Face's hub"),
    "nodes": ("run", "list every node with its inputs, defaults and tooltips"),
}

# What to take where a command has not the option of another
INSTEAD = {
    "run --axis": "--axis is for `patchbay sweep`",
    "run --server": "--server is for `patchbay queue`",
    "sweep --set": "for --set write an axis with one value, --axis NODE.input=value; with a --baseline for another "
    "axis, what the cells are compared with has it too",
}

TERMINATING = [signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 failed, 2 wrong input, 3 drifted, 130 Ctrl-C, 143 SIGTERM."""
    args = argparse.Namespace(json=False)
    try:
        with _terminable():
            return _main(argv, args)
    except KeyboardInterrupt as error:
        code, text = (TERMINATED, "terminated") if isinstance(error, Terminated) else (INTERRUPTED, "interrupted")
        with _deaf():
            return _fail(args, code, text, _about("interrupted", text))


def _main(argv: Sequence[str] | None, args: argparse.Namespace) -> int:
    _open_streams()
    try:
        words = sys.argv[1:] if argv is None else argv
        args = parser(words[:1]).parse_args(words, args)
        check_places(args)
        code = args.run(args)
        sys.stdout.flush()  # a full disk shows now
        return code
    except PromptError as error:
        return _fail(args, USER_ERROR, str(error), {"error": error.error, "node_errors": error.node_errors})
    except NodeError as error:
        return _fail(args, _code_of(error.__cause__), str(error), _about("execution_error", str(error)))
    except SystemExit:  # of argparse, whose help may go nowhere
        _flush()
        raise
    except BrokenPipeError:  # the reader of the output has seen enough
        _give_up(sys.stdout)
        return FAILED
    except Failure as error:
        return _fail(args, error.code, str(error), _about(error.kind, str(error)))
    except OSError as error:
        text = ": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error)
        return _fail(args, _code_of(error), text, _about("failed", text))
    except ModuleNotFoundError as error:
        return _fail(args, FAILED, missing(error.name), _about("failed", missing(error.name)))
    except MemoryError:
        return _fail(args, FAILED, "out of memory", _about("failed", "out of memory"))


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which ends a command as Ctrl-C does."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Hear SIGTERM and the end of the terminal, so that what is half written is removed and a job is stopped.

    Whoever listens to them already goes on doing so.
    """
    free = [number for number in TERMINATING if signal.getsignal(number) is signal.SIG_DFL]
    if not _is_main_thread():
        yield
        return
    for number in free:
        signal.signal(number, _terminated)
    try:
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


def _terminated(number: int, frame: object) -> None:
    raise Terminated


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Hear no second Ctrl-C: what is left is a sentence, and then the end of Python, which would end in a traceback."""
    if not _is_main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the last one registered is the first to run
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Command(argparse.ArgumentParser):
    """The parser of a command, which shows its own usage where it does not know an argument."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return what `args` say, or end where one is left over."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            name = self.prog.split()[-1]
            how = dict.fromkeys(INSTEAD.get(f"{name} {word.partition('=')[0]}", "") for word in left)
            self.error("; ".join([f"unrecognized arguments: {' '.join(left)}", *filter(None, how)]))
        return found, left


def parser(asked: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line, with the arguments of the commands that are asked for."""
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger(__name__.partition(".")[0]).setLevel(logging.INFO)  # what takes its time says so
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Plain("%(message)s"))
    top = argparse.ArgumentParser(prog="patchbay", description="Attention Patchbay without ComfyUI.")
    top.add_argument("--version", action="version", version=f"patchbay {__version__}")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Command)
    for name, (module, help) in COMMANDS.items():
        command = commands.add_parser(name, help=help)
        if name in asked:
            with _telling("loading"), _interrupt_after():
                found = import_module(f".{module}", __package__)  # torch comes with most, and takes a while
            getattr(found, f"add_{name}")(command)
    return top


@contextlib.contextmanager
def _telling(text: str) -> Iterator[None]:
    """Say on a terminal what is done, and take it back at the end."""
    told = sys.stderr.isatty()
    if told:
        print(f"patchbay: {text} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if told:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _interrupt_after() -> Iterator[None]:
    """Hear signals at the end: in the midst of torch's own beginning they would abort the process."""
    raising: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(TERMINATING, _terminated)}
    ours = {number: handler for number, handler in raising.items() if signal.getsignal(number) is handler}
    if not _is_main_thread():
        yield
        return
    heard: list[int] = []
    for number in ours:
        signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    if heard:
        raise Terminated if heard[0] in TERMINATING else KeyboardInterrupt


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class Terminal:
    """A terminal that gets nothing that moves its cursor: texts come from servers too, and from strangers' files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without its control characters."""
        return self._stream.write(shown(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Plain(logging.Formatter):
    """Log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return shown(super().format(record))


def _open_streams() -> None:
    """Have something to print to, whatever is closed or cannot show a letter."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the whole process
        with contextlib.suppress(AttributeError):  # another kind of stream, in a test
            getattr(sys, name).reconfigure(errors="backslashreplace")
    if sys.stdout.isatty():
        sys.stdout = cast(TextIO, Terminal(sys.stdout))


def _code_of(error: BaseException | None) -> int:
    if isinstance(error, OSError):
        return code_of(error)
    return USER_ERROR if isinstance(error, ValueError) else FAILED


def _about(kind: str, text: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": text}}


def _fail(args: argparse.Namespace, code: int, text: str, data: dict[str, Any]) -> int:
    try:
        if args.json:
            print(json.dumps(data, indent=1, default=repr))
    except OSError:
        _give_up(sys.stdout)
    _flush()
    with contextlib.suppress(OSError):
        print(f"patchbay: {shown(text)}", file=sys.stderr, flush=True)
    return code


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _give_up(sys.stdout)


def _give_up(stream: TextIO) -> None:
    """Let what is left of an output go nowhere, also when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
