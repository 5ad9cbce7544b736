"""Who is told of finished cells: commands, webhooks, and the lines of a log."""

from __future__ import annotations

import json
import os
import shlex
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.engine.progress import Progress as StepProgress
from attention_patchbay.headless.sweep import messages as module
from attention_patchbay.headless.sweep.cells import Cell
from attention_patchbay.headless.sweep.messages import Messages, Progress
from attention_patchbay.headless.sweep.runner import Outcome

from .test_sweep import DEMO

CELL = Cell({"a.b": 1}, {"1": {}}, True)


class Hook:
    """A server that notes what it is sent, and refuses the first `refuse` times."""

    def __init__(self, refuse: int = 0) -> None:
        told: list[Any] = []
        self.told, self.refused = told, 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if hook.refused < refuse:
                    hook.refused += 1
                    self.send_error(503)
                    return
                told.append((self.headers["Content-Type"], data))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?secret=1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.close()


def test_a_sweep_tells_of_each_cell_and_of_its_end(hook: Hook, tmp_path: Path) -> None:
    script = tmp_path / "cell.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        f"with open({str(tmp_path / 'told')!r}, 'a') as file:\n"
        "    print(os.environ['PATCHBAY_CELL'], json.load(sys.stdin)['done'], file=file)\n"
    )
    arguments = ["sweep", str(DEMO), "--folder", str(tmp_path / "s"), "--axis", "KSampler.steps=1", "--quiet"]
    arguments += ["--baseline", "KSampler.steps=2", "--webhook", hook.url]
    assert main([*arguments, "--on-cell", shlex.join([sys.executable, str(script)])]) == 0
    *cells, end = [data for kind, data in hook.told if kind == "application/json"]
    assert [one["done"] for one in cells] == [1, 2] and {one["total"] for one in cells} == {2}
    for one in cells:
        assert one["event"] == "cell" and one["error"] == "" and one["seconds"] > 0
        assert all((tmp_path / "s" / image).is_file() for image in one["images"]) and one["images"]
    assert end == {"event": "end", "done": 2, "total": 2, "failed": 0, "folder": str(tmp_path / "s")}
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert told == [[one["cell"], str(one["done"])] for one in cells]


def test_a_webhook_is_asked_again_and_never_fails_a_sweep(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    for refuse, told in ((2, 2), (3, 1)):
        hook = Hook(refuse)
        messages = Messages("", hook.url, "s")
        messages.cell(CELL, Outcome(), 1, 1)
        messages.end(1, 1, 0)
        hook.close()
        assert len(hook.told) == told
    assert caplog.text.count("--webhook: it was not told") == 1 and "secret" not in caplog.text


@pytest.fixture
def no_server() -> Iterator[str]:
    """The address of what takes connections and answers no HTTP."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(1)
                connection.sendall(b"hello there\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/?secret=1"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def test_what_answers_no_http_is_said_and_everyone_else_is_told(
    no_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    script = f"open({str(tmp_path / 'told')!r}, 'a').write('told ')"
    messages = Messages(shlex.join([sys.executable, "-c", script]), no_server, "s")
    for done in (1, 2):
        messages.cell(CELL, Outcome(), done, 2)
    messages.end(2, 2, 0)
    assert (tmp_path / "told").read_text() == "told told " and not messages.thread.is_alive()
    assert caplog.text.count("--webhook: it was not told") == 3 and "secret" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("hook", ["_said", "_posted"])
def test_any_failure_of_a_hook_is_said_and_later_ones_go_on(
    hook: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def failing(*arguments: Any) -> None:
        told.append("failing")
        raise RuntimeError("of no known kind")

    for name in ("_said", "_posted"):
        monkeypatch.setattr(module, name, failing if name == hook else lambda *arguments: told.append("works"))
    messages = Messages("true", "http://127.0.0.1/", "s")
    for done in (1, 2):
        messages.cell(CELL, Outcome(), done, 2)
    messages.end(2, 2, 0)
    assert told.count("failing") == (2 if hook == "_said" else 3) and len(told) == 5
    assert caplog.text.count("of no known kind") == told.count("failing") and "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "address",
    ["http://", "https:///x", "http://a b/c", "http://a/b c", "http://127.0.0.1:notaport/", "http://a:99999/"]
    + ["http://[::1/", "http://a/\n", "http://a/caf\u00e9", "http://user@/", "http://user:word@a/"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(Failure, match="--webhook "):
        Messages("", address, "s")


def test_a_command_that_fails_is_said_and_no_more(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (shlex.join([sys.executable, "-c", "print('seen'); raise SystemExit(3)"]), "/none/there"):
        messages = Messages(command, "", "s")
        messages.cell(CELL, Outcome(), 1, 1)
        messages.end(1, 1, 0)
    assert "ended in 3" in caplog.text and "No such file" in caplog.text
    out, err = capsys.readouterr()
    assert out == "" and err == "seen\n"


def test_wrong_commands_and_addresses_are_refused() -> None:
    with pytest.raises(Failure, match="--on-cell .*No closing quotation"):
        Messages("echo 'a", "", "s")
    with pytest.raises(Failure, match="write an address that begins with http"):
        Messages("", "file:///etc/passwd", "s")


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = Progress(10, 40, False, lambda: now[0])
    for second in range(1, 31):
        now[0] = float(second)
        progress.cell(CELL, Outcome(error="no memory" if second == 12 else ""))
    assert capsys.readouterr().err.splitlines() == [
        "11 of 40 cells, 1.00 s a cell, about 29 s left",
        "21 of 40 cells, 1.00 s a cell, about 19 s left",
        "a.b=1: no memory",
        "31 of 40 cells, 1 failed, 1.00 s a cell, about 9 s left",
        "40 of 40 cells, 1 failed, 1.00 s a cell",
    ]
    quiet = Progress(0, 2, True)
    quiet.cell(CELL, Outcome())
    quiet.cell(CELL, Outcome(error="broken"))
    assert capsys.readouterr().err == "a.b=1: broken\n"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], Callable[[], str]]]:
    """Make a terminal of so many rows and columns of stderr, and give what reads it."""
    termios, fcntl, pty = (pytest.importorskip(name) for name in ("termios", "fcntl", "pty"))
    reading, writing = pty.openpty()
    stderr = os.fdopen(writing, "w")

    def opened(rows: int, columns: int) -> Callable[[], str]:
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        monkeypatch.setattr(sys, "stderr", stderr)
        return read

    def read() -> str:
        stderr.flush()
        return os.read(reading, 100_000).decode()

    yield opened
    stderr.close()
    os.close(reading)


def test_a_terminal_without_a_size_gets_lines(terminal: Callable[[int, int], Callable[[], str]]) -> None:
    read = terminal(0, 0)
    progress = Progress(0, 2, False, lambda: 0.0)
    progress.cell(CELL, Outcome())
    progress.cell(CELL, Outcome())
    progress.close()
    assert progress.bar is None and read().splitlines()[-1] == "2 of 2 cells, 0.00 s a cell"
    steps = StepProgress(False)
    steps.node("KSampler")
    steps.step(4, 4)
    steps.close()
    assert "KSampler: 100%" in read()


def test_a_terminal_gets_a_bar(terminal: Callable[[int, int], Callable[[], str]]) -> None:
    read = terminal(24, 80)
    progress = Progress(0, 2, False)
    progress.cell(CELL, Outcome())
    progress.close()
    assert progress.bar is not None and "| 1/2 [" in read()


@pytest.mark.parametrize(("pace", "words"), [(100.0, "25 min"), (1000.0, "4.2 h"), (6.0, "90 s")])
def test_the_time_left_is_in_words(pace: float, words: str) -> None:
    now = [0.0]
    progress = Progress(0, 16, True, lambda: now[0])
    now[0] = pace
    progress.done = 1
    assert progress.line().endswith(f"about {words} left")
