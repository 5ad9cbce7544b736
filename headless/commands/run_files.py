"""The files that a run of a workflow writes."""

from __future__ import annotations

from ..api.folders import Folders
from ..engine.api_graph import Run
from ..engine.workflow import Prompt


def saves(prompt: Prompt) -> bool:
    """Return whether a node writes files into the output folder: such a node is told how their names begin."""
    return any("filename_prefix" in node["inputs"] for node in prompt.values())


def files_of(folders: Folders, run: Run) -> list[str]:
    """Return the paths of the pictures of a run."""
    entries = [entry for ui in run.ui.values() for entry in ui.get("images", [])]
    roots = [folders.output if entry["type"] == "output" else folders.temp for entry in entries]
    return [str(root / entry["subfolder"] / entry["filename"]) for root, entry in zip(roots, entries, strict=True)]
