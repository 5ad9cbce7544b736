"""Scripts that drive a page in Chromium, run by ComfyUI's Python, which has playwright beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .comfyui_server import ROOT, python

FOLDER = ROOT / "example_workflows"
CHROMIUM = shutil.which("chromium")
PAGE_SECONDS = float(os.environ.get("PATCHBAY_PAGE_SECONDS", "300"))


def can_drive_a_page() -> bool:
    """Return whether this machine has Chromium, and ComfyUI's environment playwright."""
    if CHROMIUM is None or "COMFYUI_PATH" not in os.environ:
        return False
    return not subprocess.run([python(), "-c", "import playwright"], capture_output=True).returncode


MARKS = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not can_drive_a_page(), reason="needs COMFYUI_PATH, playwright beside ComfyUI, and Chromium"),
]


def driven(script: str, folder: Path, *arguments: str | Path, seconds: float = PAGE_SECONDS) -> Any:
    """Run `script CHROMIUM ARGUMENTS...` of this folder, with this pack to import, and return what it printed."""
    link = folder / "attention_patchbay"  # the pack's own folder may have any name, as in custom_nodes
    if not link.exists():
        link.symlink_to(ROOT)
    command = [python(), str(Path(__file__).with_name(script)), str(CHROMIUM), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
