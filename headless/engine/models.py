"""The model that a node of a workflow gets, from the header of its file: no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..api.folders import Folders
from .validate import links
from .workflow import Prompt

LOADERS = {"CheckpointLoaderSimple": ("checkpoints", "ckpt_name"), "UNETLoader": ("diffusion_models", "unet_name")}
DEMO = "PatchbayLoadDemoModel"


def loader_of(prompt: Prompt, id: str) -> str | None:
    """Follow the model of a node to the node that loads it; None where that is none of a known kind."""
    seen: set[str] = set()
    while id not in seen:
        seen.add(id)
        if "model" not in prompt[id]["inputs"]:
            return id if prompt[id]["class_type"] in (*LOADERS, DEMO) else None
        sources = {name: source for name, source, _ in links(prompt[id])}
        if sources.get("model") not in prompt:
            return None
        id = sources["model"]
    return None


def loaded(node: Mapping[str, Any], folders: Folders) -> Any:
    """Return the model that a loading node names, without weights; None where its file is not here or not known.

    Raises CheckpointError for a file that is no sound safetensors file.
    """
    from ...ldm_patched.patches.reading.file_header import model_of

    path = model_path(node, folders)
    return None if path is None else model_of(path)


def model_path(node: Mapping[str, Any], folders: Folders) -> Path | None:
    """Return the file that a loading node loads; None where it is not here."""
    from ...ldm_patched.demo import CHECKPOINT

    if node["class_type"] == DEMO:
        return CHECKPOINT
    kind, name = LOADERS[node["class_type"]]
    value = node["inputs"][name]
    return folders.model(kind, value) if value in folders.model_names(kind) else None
