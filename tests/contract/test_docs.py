"""What the documents name is there: files, modules, commands, targets of make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attention_patchbay.headless.commands.cli import parser

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("web/docs/*.md")])
# Where a path may begin: `engine/attach.py` is one of the patches, `backends/registry.py` one of the networks.
BASES = (ROOT, ROOT / "ldm_patched" / "patches", ROOT / "ldm_patched" / "ldm" / "modules")
TOP = {path.name for path in ROOT.iterdir()} - {"output"}
HOSTS = re.compile(r"comfy\w*/.*|execution\.py|nodes\.py")  # files of ComfyUI
FILE = re.compile(r"\w[\w.-]*(?:/[\w.-]+)*/?|\.[\w-]+/[\w./-]+")


def named_paths(text: str) -> list[str]:
    """Return what stands in backticks or links of a document and is meant as a path of this repository."""
    found = re.findall(r"`([^`\n]+)`", text) + re.findall(r"\]\(([^)#:]+)\)", text)
    paths = [word for word in found if FILE.fullmatch(word) and not HOSTS.fullmatch(word)]
    return [word for word in paths if word.endswith((".py", ".js")) or ("/" in word and word.split("/")[0] in TOP)]


def exists(document: Path, name: str) -> bool:
    """Return whether there is such a path; a bare name of a file may lie anywhere."""
    name = re.sub("LANGUAGE|NAME", "*", name)  # which stand for any
    if any(any(base.glob(name)) for base in (document.parent, *BASES)):
        return True
    return "/" not in name and any(ROOT.glob(f"[a-z]*/**/{name}"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_modules_commands_and_targets_exist(document: Path) -> None:
    text = document.read_text()
    assert [name for name in named_paths(text) if not exists(document, name)] == []
    modules = re.findall(r"python -m (?:attention_patchbay\.)?((?:tests|tools|benchmarks|headless)[\w.]*)", text)
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
    commands = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert [name for name in re.findall(r"(?:^|`|/)patchbay ([a-z]+)", text) if name not in commands] == []
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [name for name in re.findall(r"(?:^|`|= )make ([a-z-]+)", text) if name not in targets] == []


def test_what_is_not_there_is_found() -> None:
    text = "`ldm_patched/patches/stack.py`, `engine/attach.py`, `derived.py`, [this](docs/none.md), `cells/`, `input:4`"
    missing = [name for name in named_paths(text) if not exists(ROOT / "README.md", name)]
    assert missing == ["ldm_patched/patches/stack.py", "docs/none.md"]


def test_the_archive_of_the_registry_leaves_out_folders_of_the_root_only() -> None:
    """A pattern without a slash in front would take `web/docs` with `docs`."""
    patterns = (ROOT / ".comfyignore").read_text().split()
    assert "/docs/" in patterns and all(pattern.startswith("/") for pattern in patterns)
