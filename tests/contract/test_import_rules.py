"""Check the direction of imports by reading the source: nodes -> patches -> the library, ComfyUI in one file only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACK = "attention_patchbay"
ROOMS = ("nodes", "ldm_patched.headless", "ldm_patched.patches", "ldm_patched")
# what a room may import besides itself
MAY = {
    "": {"nodes"},  # the root of the pack
    "nodes": {"ldm_patched.patches", "ldm_patched"},
    "ldm_patched.headless": {"nodes", "ldm_patched.patches", "ldm_patched"},
    "ldm_patched.patches": {"ldm_patched"},
    "ldm_patched": set(),
}
HOST = Path("nodes/_host.py")
HOST_MAY = {*MAY["nodes"], "ldm_patched.headless"}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "server"}
FILES = sorted(
    path.relative_to(ROOT)
    for path in [ROOT / "__init__.py", *ROOT.glob("nodes/**/*.py"), *ROOT.glob("ldm_patched/**/*.py")]
)


def imports(path: Path, source: str) -> Iterator[tuple[str, bool]]:
    """Give the full name of every module that a file of the pack imports, and whether the import is relative."""
    package = [PACK, *path.parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            yield from ((".".join([*base, alias.name]), True) for alias in node.names)


def room(dotted: str) -> str:
    """Return the room of a module of the pack, named without the pack."""
    return next((name for name in ROOMS if dotted == name or dotted.startswith(name + ".")), "")


def broken_rules(path: Path, source: str) -> list[str]:
    """Return the imports of a file that its room does not allow."""
    mine = room(".".join(path.with_suffix("").parts))
    allowed = HOST_MAY if path == HOST else MAY[mine]
    found = []
    for name, relative in imports(path, source):
        top, _, rest = name.partition(".")
        if relative:
            if room(rest) not in {mine, *allowed}:
                found.append(f"{path} is in {mine or 'the root'} and imports {rest}")
        elif top in {PACK, "ldm_patched", "nodes"}:
            found.append(f"{path} imports {name}; imports of the pack's own modules are relative")
        elif top in COMFYUI and path != HOST:
            found.append(f"{path} imports ComfyUI's {name}; only {HOST} may")
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_rooms(path: Path) -> None:
    assert broken_rules(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ldm_patched/patches/stack.py", "from ...nodes.backend import NODES"),
        ("ldm_patched/patches/stack.py", "from ... import nodes"),
        ("ldm_patched/patches/stack.py", "from ..headless.io import Schema"),
        ("ldm_patched/modules/ops.py", "from ..patches import stack"),
        ("ldm_patched/modules/ops.py", "def late():\n    import comfy.ops"),
        ("nodes/backend.py", "from comfy_api.latest import io"),
        ("nodes/backend.py", "from ..ldm_patched.headless import io"),
        ("ldm_patched/modules/ops.py", "import attention_patchbay.ldm_patched.loading.sd"),
        ("ldm_patched/modules/ops.py", "from ldm_patched.modules import sd"),
        ("__init__.py", "from .ldm_patched.patches import stack"),
    ],
)
def test_a_broken_rule_is_found(path: str, source: str) -> None:
    assert len(broken_rules(Path(path), source)) == 1
