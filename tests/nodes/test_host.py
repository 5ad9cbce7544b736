from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from attention_patchbay.headless.api import comfy_io as headless_io
from attention_patchbay.ldm_patched.ldm.modules.attention import attention_basic
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.nodes import _host

from .conftest import NODES

# ComfyUI with the pieces that the seam asks for at import, and one attention function of its own.
FAKE = {
    "comfy_api/__init__.py": "",
    "comfy_api/latest.py": "class ComfyExtension: pass\nclass io: pass\n",
    "comfy/__init__.py": "",
    "comfy/ldm/__init__.py": "",
    "comfy/ldm/modules/__init__.py": "",
    "comfy/ldm/modules/attention.py": """
def sage3(*args, **kwargs): return "sage3"
def split(*args, **kwargs): return "split"
def of_a_pack(*args, **kwargs): return "of a pack"
REGISTERED_ATTENTION_FUNCTIONS = {"sage3": sage3, "split": split, "of_a_pack": of_a_pack}
def optimized_attention(*args, **kwargs): return "optimized"
""",
}
IN_FAKE = """
from attention_patchbay.nodes import _host
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
_host.register_host_backends()
print(_host.io.__module__, _host.HOST.attend(), registry.get("sage3").function(), registry.get("sage3").missing())
print(registry.get("comfy_kitchen_int8").function.__module__)
print(registry.get("split").function.__module__)
"""
OF_A_PACK = """
import torch
from attention_patchbay.nodes import _host, rules
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
print(rules.BackendRules.validate_inputs("* -> of_a_pack"), rules.parsed("all -> Of_A_Pack")[0].backend)
q = torch.zeros(1, 2, 8)
exact = registry.AttentionCall.of(q, q, q, 2, low_precision_attention=False)
print(registry.select(registry.AttentionCall.of(q, q, q, 2), "of_a_pack").backend.function())
print(dict(registry.select(exact, "of_a_pack").skipped)["of_a_pack"][0])
print(rules.BackendRules.validate_inputs("* -> of_no_pack"))
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
    api, kitchen, split = done.stdout.splitlines()
    assert api == "comfy_api.latest optimized sage3 None"
    assert kitchen.endswith("backends.sage")  # not found by ComfyUI: stays our own
    assert split.endswith("backends.split")  # ComfyUI's gets bool masks wrong


def test_a_rule_can_name_what_only_the_host_has_registered(tmp_path: Path) -> None:
    stub = "class ComfyExtension: pass\nclass io:\n    class ComfyNode: pass\n    class Hidden: unique_id = 'id'\n"
    done = in_folder(tmp_path, {**FAKE, "comfy_api/latest.py": stub}, OF_A_PACK)
    assert done.returncode == 0, done.stderr
    good, ran, exact, *refused = done.stdout.splitlines()
    assert good == "True of_a_pack" and ran == "of a pack"
    assert exact == "does not say whether it is exact, and the call asks for an exact kernel"
    (bad,) = [line for line in refused if "unknown attention function 'of_no_pack'; choose one of auto, basic" in line]
    assert bad.endswith(", of_a_pack")


def test_a_broken_comfyui_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    broken = {"comfy_api/__init__.py": "", "comfy_api/latest.py": "import a_module_that_is_not_there\n"}
    done = in_folder(tmp_path, broken, "import attention_patchbay.nodes._host")
    assert done.returncode != 0
    assert "a_module_that_is_not_there" in done.stderr


def test_no_two_schemas_share_what_the_host_adds_to() -> None:
    # ComfyUI's Schema.finalize appends to the hidden ones of an output node, and gives ids to outputs.
    schemas = [cls.define_schema() for cls in NODES.values()]
    hidden = [id(schema.hidden) for schema in schemas]
    outputs = [id(output) for schema in schemas for output in schema.outputs]
    assert len(set(hidden)) == len(hidden)
    assert len(set(outputs)) == len(outputs)
