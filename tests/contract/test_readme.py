"""The recipes of the README run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .comfyui_server import ROOT, Server

SECTION = (ROOT / "README.md").read_text().partition("## From a script")[2].partition("\n## ")[0]
SHELL = [block for block in re.findall(r"```\n(.*?)```", SECTION, re.DOTALL) if "WORKFLOW" not in block]
(PYTHON,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


def shell(lines: str, folder: Path) -> None:
    (folder / "example_workflows").symlink_to(ROOT / "example_workflows")
    patchbay = f"{sys.executable} -m attention_patchbay.headless.commands.cli"
    script = "set -e\n" + lines.replace(".venv/bin/patchbay", patchbay)
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_sweep_runs(tmp_path: Path) -> None:
    shell(SHELL[0], tmp_path)
    assert len(list(tmp_path.glob("strengths/cells/*.json"))) == 7 and (tmp_path / "strengths/report.html").is_file()


def test_what_the_commands_need_is_installed_before_them() -> None:
    before = SECTION.partition("patchbay sweep")[0]
    assert '.venv/bin/python -m pip install -e ".[client,sweep]"' in before and "from `.venv/bin/python`" in SECTION


def test_the_tools_run(tmp_path: Path) -> None:
    shell(SHELL[1], tmp_path)
    assert "KSampler" in (tmp_path / "again.json").read_text()


@pytest.mark.comfyui
def test_the_client_runs(tmp_path: Path) -> None:
    (tmp_path / "example_workflows").symlink_to(ROOT / "example_workflows")
    with Server(tmp_path / "base") as server:
        code = PYTHON.replace("http://127.0.0.1:8188", server.url)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "20 of 20" in done.stdout and "attention calls" in done.stdout and list(tmp_path.glob("patchbay_demo*.png"))
