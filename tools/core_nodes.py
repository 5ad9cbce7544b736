"""List the core nodes that image workflows use: `COMFYUI_PYTHON tools/core_nodes.py COMFYUI_FOLDER RESULT.json`.

Counts the node types in the image templates that ComfyUI ships (`comfyui_workflow_templates`), subgraphs included, each
once for a workflow. A type counts where its file is one of UNET_FILES or of GENERAL_FILES and it is none of OTHERS. The
list is filled up with the types of UNET_FILES that no template uses, file after file, to LENGTH: templates of today
rarely have a UNet, workflows of people do.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

LENGTH = 150
UNET_FILES = (
    "nodes",
    "upscale_model",
    "mask",
    "post_processing",
    "clip_sdxl",
    "freelunch",
    "hypernetwork",
    "pag",
    "sag",
    "hypertile",
    "tomesd",
    "perpneg",
    "model_advanced",
    "custom_sampler",
    "latent",
    "images",
    "model_merging",
    "video_model",
    "hooks",
)
GENERAL_FILES = (
    "align_your_steps",
    "advanced_samplers",
    "canny",
    "compositing",
    "controlnet",
    "dataset",
    "differential_diffusion",
    "image_compare",
    "ip2p",
    "logic",
    "math",
    "number_convert",
    "preview_any",
    "primitive",
    "resolution",
    "string",
    "text",
)
# For networks that are no UNets, for video, or for files that only other networks have.
OTHERS = frozenset(
    (
        "ControlNetInpaintingAliMamaApply",
        "DualModelGuider",
        "LatentCut",
        "LatentCutToBatch",
        "ModelComputeDtype",
        "ModelNoiseScale",
        "ModelSamplingAuraFlow",
        "ModelSamplingFlux",
        "ModelSamplingSD3",
        "ModelSamplingStableCascade",
        "ReplaceVideoLatentFrames",
        "SaveSVGNode",
    )
)


def types(workflow: Mapping[str, Any]) -> Iterator[str]:
    """Yield the types of the nodes of a workflow in the page's format, and of its subgraphs."""
    yield from (node["type"] for node in workflow.get("nodes", []))
    for graph in workflow.get("definitions", {}).get("subgraphs", []):
        yield from types(graph)


def counted(folder: Path) -> Counter[str]:
    """Count in how many of the image workflows of a templates folder each type is."""
    groups = json.loads((folder / "index.json").read_text())
    names = [entry["name"] for group in groups if group.get("type") == "image" for entry in group["templates"]]
    found: Counter[str] = Counter()
    for name in names:
        if (file := folder / f"{name}.json").is_file():
            found.update(set(types(json.loads(file.read_text()))))
    return found


def listed(counts: Mapping[str, int], files: Mapping[str, str]) -> dict[str, int]:
    """Return the types of the list with their counts, the most used first; `files` gives the file of each core type."""
    known = {name: file for name, file in files.items() if name not in OTHERS}
    used = [name for name, file in known.items() if counts.get(name) and file in (*UNET_FILES, *GENERAL_FILES)]
    used.sort(key=lambda name: (-counts[name], name))
    unused = [name for name, file in known.items() if file in UNET_FILES and not counts.get(name)]
    unused.sort(key=lambda name: UNET_FILES.index(known[name]))
    return {name: counts.get(name, 0) for name in (used + unused)[:LENGTH]}


def files_of_comfyui() -> tuple[str, dict[str, str]]:
    """Return ComfyUI's version, and for each core node the file that has it, without `nodes_`."""
    importlib.import_module("comfy.cli_args").args.cpu = True
    nodes = importlib.import_module("nodes")
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    places = {name: cls.__module__ for name, cls in nodes.NODE_CLASS_MAPPINGS.items()}
    return importlib.import_module("comfyui_version").__version__, {
        name: Path(place).name.removeprefix("nodes_") for name, place in places.items()
    }


def main(comfyui: str, result: str) -> None:
    """Write the list."""
    target = Path(result).resolve()
    os.chdir(comfyui)
    sys.path[0] = os.getcwd()
    sys.argv = sys.argv[:1]
    templates = importlib.import_module("comfyui_workflow_templates_json")
    folder = Path(list(templates.__path__)[0]) / "templates"
    comfyui_version, files = files_of_comfyui()
    made = f"tools/core_nodes.py, ComfyUI {comfyui_version}, templates {version('comfyui_workflow_templates')}"
    nodes = listed(counted(folder), files)
    target.write_text(json.dumps({"made": made, "workflows": nodes}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
