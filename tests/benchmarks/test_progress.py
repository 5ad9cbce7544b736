"""What a benchmark says while it has nothing to print."""

from __future__ import annotations

import sys
import time

import progress
import pytest
from progress import CLEARED, Progress


def test_a_terminal_is_told_what_is_done_and_a_line_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("loading") as told:
        time.sleep(0.1)
        told.doing = "round 2"
        time.sleep(0.1)
        told.print("| 1 |")
    seen = capsys.readouterr()
    assert seen.out == "| 1 |\n"
    assert "[     0 s] loading" in seen.err and "[     0 s] round 2" in seen.err and seen.err.endswith(CLEARED)
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_elsewhere_there_are_lines_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with Progress("loading") as told:
        time.sleep(0.05)
        told.print("| 1 |")
    assert capsys.readouterr() == ("| 1 |\n", "")
