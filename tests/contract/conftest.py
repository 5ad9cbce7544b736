"""What several files of tests on a real ComfyUI use, and on what they ran."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .comfyui_server import FRONTENDS, Server, python
from .recorded import Host, recording

VERSIONS = """
import importlib.metadata as metadata, json, platform, comfyui_version
found = {"ComfyUI": comfyui_version.__version__, "Python": platform.python_version()}
for name, package in {"torch": "torch", "frontend": "comfyui-frontend-package"}.items():
    found[name] = metadata.version(package)
print(json.dumps(found))
"""


@pytest.fixture(scope="session", autouse=True)
def versions(record_testsuite_property: Callable[[str, object], None]) -> None:
    """Keep in the junit file what ran."""
    folder = os.environ.get("COMFYUI_PATH")
    if folder:
        done = subprocess.run([python(), "-c", VERSIONS], cwd=folder, capture_output=True, text=True, check=True)
        for name, version in json.loads(done.stdout).items():
            record_testsuite_property(name, version)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Start a server with the nodes that the record of a run is tried with."""
    with recording(tmp_path_factory.mktemp("record")) as running:
        yield running


@pytest.fixture(scope="module", params=FRONTENDS or [None], ids=lambda folder: Path(folder or "installed").name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server for the page, with each frontend that is named."""
    frontend = ["--front-end-root", request.param] if request.param else []
    with Server(tmp_path_factory.mktemp("page") / "base", *frontend) as running:
        yield running
