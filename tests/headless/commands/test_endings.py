"""However a command ends: one line on stderr, the documented exit code, never a traceback."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attention_patchbay.headless.commands import cli, convert, run
from attention_patchbay.headless.commands.cli import main

ROOT = Path(__file__).parents[3]
DEMO = str(ROOT / "example_workflows" / "api" / "demo.json")
PAGE = str(ROOT / "example_workflows" / "demo.json")
SWEEP = ["sweep", DEMO, "--axis", "KSampler.seed=1,2", "--quiet"]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("not a workflow")
    (tmp_path / "up.json").write_text(json.dumps(saving("../../x")))
    (tmp_path / "save.json").write_text(json.dumps(saving("x")))
    (tmp_path / "bad.csv").write_text("3.seed,3.seed\n1,2\n")
    yield


def saving(prefix: str) -> dict[str, Any]:
    made = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    shown = {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["0", 2]}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}}
    return {"0": {"class_type": "PatchbayLoadDemoModel", "inputs": {}}, "1": made, "2": shown, "3": save}


WRONG = {
    "a file that is not there": ["run", "none.json"],
    "a folder for a workflow": ["run", "folder"],
    "a folder to convert": ["convert", "folder"],
    "no JSON": ["convert", "file"],
    "a folder to compare": ["diff", DEMO, "folder"],
    "a folder to look into": ["info", "folder"],
    "a name too long": ["info", "x" * 5000],
    "a folder to write to": ["convert", PAGE, "-o", "folder"],
    "a folder that is not there": ["convert", PAGE, "-o", "none/x.json"],
    "a file for a folder": ["convert", PAGE, "-o", "file/x.json"],
    "a file for the output": ["run", "save.json", "--output", "file"],
    "a prefix that leads out": ["run", "up.json", "--output", "out"],
    "a file for a sweep": [*SWEEP, "--folder", "file"],
    "less than no cells": [*SWEEP, "--random", "-1"],
    "a folder of values": ["sweep", DEMO, "--axis", "CLIPTextEncode.text=@folder"],
    "a folder of cells": ["sweep", DEMO, "--list", "folder"],
    "a column twice": ["sweep", DEMO, "--list", "bad.csv"],
    "a folder of nodes": ["check", DEMO, "--nodes", "folder"],
    "a port too high": ["queue", DEMO, "--server", "http://127.0.0.1:99999"],
    "half a bracket": ["queue", DEMO, "--server", "http://[::1"],
    "half a bracket to check": ["check", DEMO, "--server", "http://[::1"],
    "a baseline without a value": [*SWEEP, "--baseline", "KSampler"],
    "two workflows from one input": ["diff", "-", "-"],
    "no header": ["queue", DEMO, "--header", "hunter2"],
    "half a header": ["queue", DEMO, "--header", "X: hunter2\ny"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("patchbay: ") and len(error.splitlines()) == 1 and len(error) < 6000
    assert "hunter2" not in error and not list(Path().glob("**/.*.tmp"))


@pytest.mark.parametrize(("module", "extra"), [("skimage", "sweep"), ("pyarrow", "sweep")])
def test_a_sweep_says_what_is_missing_before_it_begins(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    assert main([*SWEEP, "--folder", "s"]) == 1 and not Path("s").exists()
    assert capsys.readouterr().err == f'patchbay: {module} is missing; pip install "attention-patchbay[{extra}]"\n'


@pytest.mark.parametrize("module", ["httpx", "websockets"])
def test_a_client_says_what_is_missing(module: str) -> None:
    script = f"import sys; sys.modules[{module!r}] = None; import attention_patchbay.client"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.endswith(f'Error: {module} is missing; pip install "attention-patchbay[client]"\n')
    script = f"import sys; sys.modules[{module!r}] = None; from attention_patchbay.headless.commands.cli import main"
    queue = f"{script}; sys.exit(main(['queue', {DEMO!r}]))"
    done = subprocess.run([sys.executable, "-c", queue], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f'patchbay: {module} is missing; pip install "attention-patchbay[client]"\n'


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="nothing is closed to root")
def test_a_closed_folder_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").chmod(0o500)
    for arguments in (["convert", PAGE, "-o", "folder/x"], ["run", "save.json", "--output", "folder/x"]):
        assert main(arguments) == 2 and "Permission denied" in capsys.readouterr().err


def test_an_output_that_cannot_be_is_said_before_the_first_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "execute", lambda *args: pytest.fail("it ran"))
    for folder in ("file", "file/below"):
        assert main(["run", "save.json", "--output", folder]) == 2
        assert "file: Not a directory" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda place, how: False)
    assert main(["run", "save.json", "--output", "new/below"]) == 2
    assert "Permission denied" in capsys.readouterr().err and not Path("new").exists()


def test_a_private_file_stays_private() -> None:
    Path("x.json").touch()
    Path("x.json").chmod(0o600)
    assert main(["convert", PAGE, "-o", "x.json"]) == 0
    assert Path("x.json").stat().st_mode & 0o777 == 0o600 and Path("x.json").stat().st_size


class Full(io.RawIOBase):
    """A disk without room."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


class Closed(Full):
    """A pipe that nobody reads."""

    def write(self, data: Any) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("arguments", [["convert", PAGE], ["convert", "none"], ["info", "none", "--json"], ["nodes"]])
@pytest.mark.parametrize("kind", [Full, Closed])
def test_an_output_that_takes_nothing(
    arguments: list[str], kind: type[Full], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(kind()), write_through=False))
        code = main(arguments)
        patch.setattr(sys.stdout, "flush", lambda: None)
        sys.stdout.detach()  # or Python complains of what it cannot write
    assert code == (2 if "none" in arguments else 1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (0 if kind is Closed and "none" not in arguments else 1)


def test_a_disk_that_fills_up_is_no_wrong_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", lambda *paths: full(paths))
    assert main(["convert", PAGE, "-o", "x.json"]) == 1
    assert capsys.readouterr().err == "patchbay: No space left on device\n"
    assert not list(Path().glob(".*")) and not Path("x.json").exists()


def test_without_a_terminal_and_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert main(["run", "save.json", "--output", "out"]) == 0
        assert main(["run", "none.json"]) == 2
        sys.stderr.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert main(["convert", PAGE]) == 0
        sys.stdout.close()
    assert len(list(Path("out").iterdir())) == 1


@pytest.mark.parametrize(("module", "name"), [(cli, "parser"), (convert, "read"), (run, "load")])
def test_ctrl_c_at_any_time(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupted)
    assert main(["convert" if module is not run else "run", PAGE]) == 130
    assert capsys.readouterr().err == "patchbay: interrupted\n"


def test_a_second_ctrl_c_at_the_end_is_not_heard() -> None:
    script = (
        "import atexit, signal, sys\n"
        "import attention_patchbay.headless.commands.cli as cli\n"
        "atexit.register(signal.raise_signal, signal.SIGINT)\n"  # as torch's own end, in which one may come
        "cli.parser = lambda *_: signal.raise_signal(signal.SIGINT)\n"
        "sys.exit(cli.main(['nodes']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "patchbay: interrupted\n")


@pytest.mark.parametrize("error", [RuntimeError("Module: nonsense does not exist"), ConnectionError("no")])
def test_an_address_of_no_cluster_is_said(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(*args: Any, **kinds: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    assert main([*SWEEP, "--folder", "s", "--ray", "nonsense://x"]) == 2
    assert "--ray nonsense://x: no cluster answers there" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_waits_for_what_it_would_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    done = []
    with pytest.raises(KeyboardInterrupt), cli._interrupt_after():
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_takes_long_to_import_is_imported_where_ctrl_c_is_heard() -> None:
    script = "import sys, attention_patchbay.headless.commands.cli as cli; print('torch' in sys.modules, cli.main)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False <function main")


def test_a_workflow_comes_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(PAGE, "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert main(["diff", "-", DEMO]) == 0
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["run", "-"]) == 2 and "standard input" in capsys.readouterr().err


def test_a_picture_comes_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "save.json", "--output", "out"]) == 0
    (picture,) = Path("out").iterdir()
    for data, code in ((picture.read_bytes(), 0), (b"model", 2)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["info", "-"]) == code
    out, error = capsys.readouterr()
    assert "-: a workflow of 4 nodes" in out and "standard input holds no picture" in error


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="has no terminals that are closed")
def test_a_terminal_that_is_closed_ends_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "parser", lambda *_: signal.raise_signal(signal.SIGHUP))
    assert main(["nodes"]) == 143 and capsys.readouterr().err == "patchbay: terminated\n"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_terminal_gets_no_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Tty()
    Path("odd.json").write_text(json.dumps({"\x1b[2J": {"class_type": "\x9b1mFar", "inputs": {}}}))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", shown)
        assert main(["check", "odd.json"]) == 2
    assert "?[2J" in shown.getvalue() and not any(char in shown.getvalue() for char in "\x1b\x9b")
    assert main(["run", "odd.json"]) == 2
    assert "?[2J" in capsys.readouterr().err


def test_a_terminal_is_told_that_a_command_loads_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.parser(["diff"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cli.parser(["diff"])
    assert capsys.readouterr().err == "patchbay: loading ...\r\x1b[K"
    monkeypatch.setitem(cli.COMMANDS, "diff", ("no_such_module", ""))
    with pytest.raises(ModuleNotFoundError):
        cli.parser(["diff"])
    assert capsys.readouterr().err.endswith("\x1b[K")


@pytest.mark.parametrize("command", ["run", "check", "sweep", "tune", "queue", "lora"])
@pytest.mark.parametrize("option", ["--models", "--input"])
def test_a_folder_that_is_not_there_is_said_before_anything_runs(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if (command, option) == ("queue", "--models"):
        return
    assert main([command, "workflow.json", option, "/nope"]) == 2
    assert capsys.readouterr().err == "patchbay: no such folder: /nope\n"
    Path("models").touch()  # no folder; a name that was written is meant
    assert main([command, "workflow.json", option, "models", "--json"]) == 2
    out, error = capsys.readouterr()
    assert error == "patchbay: no such folder: models\n" and "no such folder: models" in out
