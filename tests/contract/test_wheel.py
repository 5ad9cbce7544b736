"""The wheel holds what runs, and no more: the README says what it leaves out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from attention_patchbay.ldm_patched.demo import LORAS

pytest.importorskip("setuptools", minversion="77")
ROOT = Path(__file__).parents[2]
ROOMS = ("headless", "ldm_patched", "nodes")
FILES = ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "api.py", "client.py", "py.typed")
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"
BARE = """
import sys
sys.modules["torch"] = None
from attention_patchbay.headless.commands.cli import main
main(["--help"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in ROOMS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (found,) = (folder / "dist").glob("*.whl")
    return found


def test_it_holds_every_module_and_what_they_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    wanted |= {Path(name) for name in ("__init__.py", "api.py", "client.py", "py.typed")}
    wanted |= {path.relative_to(ROOT) for path in (ROOT / "headless").rglob("*.html")}
    wanted |= {path.relative_to(ROOT) for path in (ROOT / "ldm_patched").rglob("*.cpp")}
    wanted |= {Path(f"ldm_patched/demo/{name}") for name in ("demo.safetensors", *LORAS)}
    assert {f"attention_patchbay/{path.as_posix()}" for path in wanted} <= names
    assert not [name for name in names if name.split("/")[1] in ("tools", "tests", "example_workflows", "web", "docs")]
    assert "are in the repository, not in the wheel" in (ROOT / "README.md").read_text().replace("\n", " ")


def test_without_torch_the_command_says_what_is_missing(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    done = subprocess.run([sys.executable, "-c", BARE], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("usage: patchbay") or done.stderr.startswith("patchbay: torch is missing")
