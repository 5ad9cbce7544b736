"""What the commands of benchmarks/ refuse before they measure, and how Ctrl-C ends them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_line
import pytest

from .conftest import BENCHMARKS

FROM_1, FROM_2 = "give a number from 1", "give a number from 2"
NO_FOLDER = "there is no folder '/nowhere'"
REFUSED = {
    "attention --json /nowhere/x.json": NO_FOLDER,
    "capture --rounds 1": FROM_2,
    "capture --threads 0": FROM_1,
    "capture --latent 12": "give a multiple of 8",
    "capture --json /nowhere/x.json": NO_FOLDER,
    "effects avoid --pictures 0": FROM_1,
    "effects avoid --steps -1": FROM_1,
    "effects avoid --json /nowhere/x.json": NO_FOLDER,
    "joint_attention 0": FROM_1,
    "live_masks overlap --pictures 0": FROM_1,
    "live_masks overlap --json /nowhere/x.json": NO_FOLDER,
    "lora --channels 50": "give a multiple of 32",
    "lora --side 0": "give a multiple of 8",
    "lora --rounds 0": FROM_1,
    "overhead --json /nowhere/x.json": NO_FOLDER,
    "parity --json /nowhere/x.json": NO_FOLDER,
    "ranks --channels 0": "give a multiple of 32",
    "ranks --channels 50": "give a multiple of 32",
    "ranks --processes 0": "invalid choice: 0",
    "ranks --processes 1 3": "invalid choice: 3",
    "ranks --rounds 0": FROM_1,
    "sweep --cells 0": FROM_1,
    "sweep --rounds 0": FROM_1,
    "table x.jsonl --steps 0": FROM_1,
    "tiles --rounds 0": FROM_1,
    "tiles --rounds x": FROM_1,
    "tiles --threads 0": FROM_1,
    "token_methods --rounds 1": FROM_2,
    "token_methods --sides 64 0": FROM_1,
    "token_methods --json /nowhere/x.json": NO_FOLDER,
    "trained_loras regions --pictures 0": FROM_1,
    "trained_loras regions --json /nowhere/x.json": NO_FOLDER,
    "unet_step --rounds 0": FROM_1,
    "unet_step --latent 12": "give a multiple of 8",
    "unet_step --json /nowhere/x.json": NO_FOLDER,
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_measured_or_kept_is_refused_in_words(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *given = words.split()
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert REFUSED[words] in told.err and not told.out


def test_a_file_that_can_be_written_is_a_path(tmp_path: Path) -> None:
    assert command_line.new_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    assert command_line.new_file("x.json") == Path("x.json")
    with pytest.raises(command_line.argparse.ArgumentTypeError, match="is a folder"):
        command_line.new_file(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "given"), [("loading", ()), ("overhead", ()), ("ranks", ("--channels", "32", "--rounds", "100"))]
)
def test_ctrl_c_ends_a_command_and_its_children_without_a_traceback(name: str, given: tuple[str, ...]) -> None:
    """The interrupt goes to the whole group, as from a terminal, once the command has begun to work."""
    code = "import sys, runpy, threading, os, signal; sys.path.insert(0, sys.argv[1]); sys.argv[:] = sys.argv[2:]\n"
    code += "import command_line; main = command_line.run\n"
    code += "def run(work): threading.Timer(2.0, os.killpg, (0, signal.SIGINT)).start(); return main(work)\n"
    code += "command_line.run = run; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(BENCHMARKS), str(BENCHMARKS / f"{name}.py"), *given]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, told = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 130 and told == "\nended\n"
    end = time.monotonic() + 20
    while is_there(process.pid) and time.monotonic() < end:  # what Python starts to clean up may end after it
        time.sleep(0.05)
    assert not is_there(process.pid)


def is_there(group: int) -> bool:
    """Return whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
