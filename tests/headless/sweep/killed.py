"""A sweep that is killed between its cells, and begun again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def killed_and_again(command: Sequence[str], folder: Path, cells: int) -> None:
    """Kill a sweep of so many cells after two of them, run it once more, and hold that these did not run again."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(list(folder.glob("cells/*.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
    assert 2 <= len(done) < cells
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    files = {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
    assert len(files) == cells and {name: files[name] for name in done} == done
    assert len(list(folder.glob("cells/*/*.png"))) == cells
