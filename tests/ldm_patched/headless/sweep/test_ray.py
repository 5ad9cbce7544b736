"""A sweep on a local Ray cluster: the driver and a node are killed, and every cell arrives once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
CHILD = Path(__file__).with_name("ray_child.py")
CELLS = 10


def test_every_cell_arrives_once_whoever_dies(tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), str(tmp_path / "s"), str(CELLS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert ran.returncode == 0, ran.stderr[-3000:]
    seen = json.loads(ran.stdout[ran.stdout.index("{") :])
    assert seen["code"] == 0, seen["errors"]
    assert 2 <= seen["killed driver"] < seen["killed node"] <= CELLS  # both happened on the way
    assert len(seen["workers"]) == CELLS + 1 and seen["kept"]
    assert len({worker.split()[1] for worker in seen["workers"]}) == 2  # nodes
    pictures = list((tmp_path / "s" / "cells").glob("*/*.png"))
    assert len(pictures) == CELLS + 1 and not list((tmp_path / "s" / "cells").glob("*.part"))
