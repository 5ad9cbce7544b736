from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from attention_patchbay.headless.api import comfy_io as headless_io
from attention_patchbay.ldm_patched.ldm.modules.attention import attention_basic
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.nodes import _host

# ComfyUI with the pieces that the seam asks for at import, and one attention function of its own.
FAKE = {
    "comfy_api/__init__.py": "",
    "comfy_api/latest.py": "class ComfyExtension: pass\nclass io: pass\n",
    "comfy/__init__.py": "",
    "comfy/ldm/__init__.py": "",
    "comfy/ldm/modules/__init__.py": "",
    "comfy/ldm/modules/attention.py": """
def get_attention_function(name, default):
    return {"sage3": sage3}.get(name, default)
def sage3(*args, **kwargs): return "sage3"
def optimized_attention(*args, **kwargs): return "optimized"
""",
}
IN_FAKE = """
from attention_patchbay.nodes import _host
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
_host.register_host_backends()
print(_host.io.__module__, _host.HOST.attend(), registry.get("sage3").function(), registry.get("sage3").missing())
print(registry.get("comfy_kitchen_int8").function.__module__)
"""


def in_folder(folder: Path, files: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


def test_without_comfyui_the_embedded_host_serves() -> None:
    assert _host.io is headless_io
    q, k, v = (torch.randn(1, 5, 16) for _ in range(3))
    torch.testing.assert_close(_host.HOST.attend(q, k, v, 2), attention_basic(q, k, v, 2))


def test_without_comfyui_no_backend_is_replaced() -> None:
    before = {name: registry.get(name) for name in registry.KNOWN}
    _host.register_host_backends()
    assert {name: registry.get(name) for name in registry.KNOWN} == before


def test_in_comfyui_its_node_api_and_its_attention_serve(tmp_path: Path) -> None:
    done = in_folder(tmp_path, FAKE, IN_FAKE)
    assert done.returncode == 0, done.stderr
    api, kitchen = done.stdout.splitlines()
    assert api == "comfy_api.latest optimized sage3 None"
    assert kitchen.endswith("backends.sage")  # not found by ComfyUI: stays our own


def test_a_broken_comfyui_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    broken = {"comfy_api/__init__.py": "", "comfy_api/latest.py": "import a_module_that_is_not_there\n"}
    done = in_folder(tmp_path, broken, "import attention_patchbay.nodes._host")
    assert done.returncode != 0
    assert "a_module_that_is_not_there" in done.stderr
