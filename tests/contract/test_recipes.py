"""Every command of the recipes runs, in the order of the page."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attention_patchbay.headless.client import service
from attention_patchbay.headless.commands.cli import main
from PIL import Image

from ..headless.sweep.runpod_endpoint import KEY, Endpoint

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
AWAY, SHARED = "https://api.runpod.ai/v2/ID", "file:///tmp/patchbay-recipes"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setattr(service, "FIRST", 0.02)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    with Endpoint(picture.getvalue()).serve() as server:
        yield server.url


def write(name: str, **sampler: float) -> None:
    """Write the workflow that the page speaks of: the demo's, with two steps."""
    workflow = json.loads((ROOT / "example_workflows" / "api" / "demo.json").read_text())
    (node,) = [node for node in workflow.values() if node["class_type"] == "KSampler"]
    node["inputs"].update(steps=2, **sampler)
    Path(name).write_text(json.dumps(workflow))


def test_the_commands_of_the_page_run(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("workflows").mkdir()
    write("workflows/portrait.json")
    for command in COMMANDS:
        words = shlex.split(command.replace(AWAY, endpoint).replace(SHARED, f"file://{tmp_path}"))
        if words[0] == "python":
            told = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True)
            assert "mean_stddev" in told.stdout
            continue
        assert words[0] == "patchbay" and main(words[1:]) == 0, command
        if "--folder" in words:
            folder = words[words.index("--folder") + 1].removeprefix("file://")
            assert Path(folder, "report.html").is_file()
    night = next(shlex.split(command)[1:] for command in COMMANDS if "--expect" in command)
    write("drifted.json", cfg=1.0)
    drifted = {"workflows/portrait.json": "drifted.json", "tonight/portrait": "drifted"}
    assert main([drifted.get(word, word) for word in night]) == 3
