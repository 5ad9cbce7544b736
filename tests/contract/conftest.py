"""What several files of tests on a real ComfyUI use, and on what they ran."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from .comfyui_server import python
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
