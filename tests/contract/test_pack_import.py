"""Check that importing the pack does nothing: ComfyUI and test runners import it long before anybody needs a node."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import attention_patchbay

from ..released import RELEASED

ROOT = Path(__file__).parents[2]
LOADED = """
import sys
before = set(sys.modules)
import attention_patchbay
print(*sorted(name.split(".")[0] for name in set(sys.modules) - before))
"""
LISTED = """
import asyncio, sys
import torch
from attention_patchbay import comfy_entrypoint
async def names():
    extension = await comfy_entrypoint()
    return [cls.GET_SCHEMA().node_id for cls in await extension.get_node_list()]
print(*asyncio.run(names()))
sys.exit("torch's compiler was loaded, which takes two seconds" if "torch._dynamo" in sys.modules else 0)
"""
BROKEN = """
import asyncio, sys
sys.modules["attention_patchbay.nodes.report"] = None
from attention_patchbay import comfy_entrypoint
asyncio.run(comfy_entrypoint())
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


def test_import_loads_no_library_and_says_nothing(tmp_path: Path) -> None:
    done = python(LOADED, tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert not {"torch", "numpy", "safetensors", "PIL"} & set(done.stdout.split())


def test_the_entrypoint_lists_the_nodes_silently(tmp_path: Path) -> None:
    done = python(LISTED, tmp_path)
    assert done.stderr == ""
    listed = done.stdout.split()
    assert set(listed) >= RELEASED and len(set(listed)) == len(listed)


def test_an_error_keeps_its_traceback(tmp_path: Path) -> None:
    done = python(BROKEN, tmp_path)
    assert done.returncode != 0
    assert "Attention Patchbay cannot be loaded" in done.stderr
    assert "nodes/extension.py" in done.stderr


def test_the_door_is_small_and_exports_two_names() -> None:
    assert len((ROOT / "__init__.py").read_text().splitlines()) <= 30
    assert inspect.iscoroutinefunction(attention_patchbay.comfy_entrypoint)
    assert (ROOT / attention_patchbay.WEB_DIRECTORY).is_dir()
    assert not hasattr(attention_patchbay, "NODE_CLASS_MAPPINGS")  # ComfyUI would then look at nothing else
