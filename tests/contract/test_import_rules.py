"""Check the drawing of the pack by reading the source: rooms in order, imports that only run down, no circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACK = "attention_patchbay"
# From the top down: a file imports from its own room and from those below it.
ROOMS = (
    "tools",
    "client",
    "headless.commands",
    "headless.sweep",
    "headless.pages",
    "headless.client",
    "headless.engine",
    "",  # the root of the pack: what ComfyUI loads
    "api",
    "nodes",
    "headless.nodes",
    "headless.api",
    "headless",
    "ldm_patched.on_diffusers",
    "ldm_patched.patches.reading",
    "ldm_patched.patches.routing",
    "ldm_patched.patches.methods",
    "ldm_patched.patches.engine",
    "ldm_patched.patches.record",
    "ldm_patched.patches.addressing",
    "ldm_patched.patches",
    "ldm_patched.loading",
    "ldm_patched.controlnet",
    "ldm_patched.sampling",
    "ldm_patched.text",
    "ldm_patched.images",
    "ldm_patched.files",
    "ldm_patched.demo",
    "ldm_patched.ldm",
    "ldm_patched.modules",
    "ldm_patched",
)
# Below itself, and yet not for it.
FORBIDDEN = {
    "client": {"nodes", "headless.nodes", "headless.api", "ldm_patched"},
    "headless.client": {"nodes", "headless.nodes", "headless.api", "ldm_patched"},
    "": {"headless", "ldm_patched"},
    "api": {"headless", "nodes"},
    "nodes": {"headless"},
}
# The names that other packs know: they lead to the rooms, and no file of the pack takes that way.
DOORS = {
    f"ldm_patched.modules.{name}"
    for name in (
        "clip_model",
        "conds",
        "controlnet",
        "latent_formats",
        "lora",
        "model_base",
        "model_sampling",
        "sample",
        "samplers",
        "sd",
    )
}
# Where the nodes meet their host; the other way of each is the node API of the host without ComfyUI.
HOSTS = {"nodes._comfyui", "nodes._embedded"}
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "server"}


def dotted(path: Path) -> str:
    """Return the module of a file, named without the pack."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(
    path.relative_to(ROOT)
    for path in [
        *ROOT.glob("*.py"),
        *(path for room in ("headless", "ldm_patched", "nodes", "tools") for path in ROOT.glob(f"{room}/**/*.py")),
    ]
)
MODULES = {dotted(path) for path in FILES}


def imports(path: Path, source: str) -> Iterator[tuple[str, bool]]:
    """Give the full name of every module that a file of the pack imports, and whether the import is relative."""
    package = path.parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                full = ".".join([*base, alias.name])
                yield full if full in MODULES else ".".join(base), True


def within(module: str, room: str) -> bool:
    """Return whether a module lies in a room; the root holds what lies in no other."""
    return module == room or module.startswith(f"{room}.")


def room(module: str) -> str:
    """Return the room of a module, the narrowest that holds it."""
    return max((name for name in ROOMS if within(module, name)), key=len, default="")


def allowed(module: str, target: str) -> bool:
    """Return whether a module may import another."""
    mine, other = room(module), room(target)
    if module in HOSTS and other == "headless.api":
        return True
    closed = any(within(other, name) for name in FORBIDDEN.get(mine, ()))
    return mine == other or not closed and ROOMS.index(mine) < ROOMS.index(other)


def broken_rules(path: Path, source: str) -> list[str]:
    """Return the imports of a file that the drawing does not allow."""
    module = dotted(path)
    found = []
    for name, relative in imports(path, source):
        top = name.partition(".")[0]
        if relative and name in DOORS:
            found.append(f"{path} imports {name}, a name for other packs; import the module it leads to")
        elif relative and module not in DOORS and not allowed(module, name):
            found.append(f"{path} is in {room(module) or 'the root'} and imports {name or 'the root'}")
        elif not relative and top in {PACK, "headless", "ldm_patched", "nodes", "tools"}:
            found.append(f"{path} imports {name}; imports of the pack's own modules are relative")
        elif not relative and top in COMFYUI and module not in HOSTS:
            found.append(f"{path} imports ComfyUI's {name}; only {', '.join(sorted(HOSTS))} may")
    return found


@cache
def graph() -> dict[str, frozenset[str]]:
    """Return what every file imports of the pack; what stands under TYPE_CHECKING or in a function counts."""
    return {
        dotted(path): frozenset(name for name, relative in imports(path, (ROOT / path).read_text()) if relative)
        for path in FILES
    }


def circles(edges: Mapping[str, frozenset[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reached = {start: _reached(edges, start) for start in edges}
    return {
        frozenset({start, *(other for other in reached[start] if start in reached.get(other, ()))})
        for start in edges
        if start in reached[start]
    }


def _reached(edges: Mapping[str, frozenset[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += edges.get(module, ())
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_rooms(path: Path) -> None:
    assert broken_rules(path, (ROOT / path).read_text()) == []


def test_the_drawing_shows_the_rooms_in_this_order() -> None:
    drawing = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    drawn = [line.split()[0].removesuffix("/").removesuffix(".py") for line in drawing.strip().splitlines()]
    packages = {"headless", "ldm_patched", "ldm_patched.patches"}  # hold rooms, and an __init__ without code
    rooms = [room.replace(".", "/") or "__init__" for room in ROOMS if room not in packages]
    assert drawn == rooms


def test_every_door_is_there() -> None:
    assert DOORS <= MODULES


def test_no_files_import_each_other() -> None:
    assert circles({name: found for name, found in graph().items() if name not in DOORS}) == set()


def test_a_circle_is_found() -> None:
    edges = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("d")}
    assert circles(edges) == {frozenset("bc"), frozenset("d")}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ldm_patched/patches/stack.py", "from ...nodes.backend import NODES"),
        ("ldm_patched/patches/stack.py", "from ... import nodes"),
        ("ldm_patched/patches/stack.py", "from ...headless.api.comfy_io import Schema"),
        ("ldm_patched/modules/ops.py", "from ..patches import stack"),
        ("ldm_patched/modules/ops.py", "def late():\n    import comfy.ops"),
        ("ldm_patched/modules/model_patcher.py", "if TYPE_CHECKING:\n    from ..sampling.model_base import BaseModel"),
        ("ldm_patched/sampling/samplers.py", "from ..loading import sd"),
        ("ldm_patched/text/clip.py", "from ...tools.demo import train"),
        ("ldm_patched/loading/video.py", "from ..modules import sd"),
        ("ldm_patched/loading/video.py", "from ..modules.sd import load_checkpoint"),
        ("headless/api/session.py", "from ..nodes import loaders"),
        ("headless/nodes/loaders.py", "from ..engine import catalog"),
        ("headless/client/sync.py", "from ...ldm_patched.modules import ops"),
        ("nodes/backend.py", "from comfy_api.latest import io"),
        ("nodes/backend.py", "from ..headless.api import comfy_io"),
        ("nodes/_host.py", "from ..headless.engine import catalog"),
        ("ldm_patched/modules/ops.py", "import attention_patchbay.ldm_patched.loading.sd"),
        ("ldm_patched/modules/ops.py", "from ldm_patched.modules import model_patcher"),
        ("__init__.py", "from .ldm_patched.patches import stack"),
    ],
)
def test_a_broken_rule_is_found(path: str, source: str) -> None:
    assert len(broken_rules(Path(path), source)) == 1
