"""What the models of a workflow weigh: the sizes of the files that it names."""

from __future__ import annotations

from collections.abc import Callable

from ..api.folders import KINDS, Folders
from ..engine.workflow import Prompt

MODEL_INPUTS = {  # input of ComfyUI's loaders -> folder of models
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "lora_name": "loras",
    "control_net_name": "controlnet",
    "vae_name": "vae",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "clip_name4": "text_encoders",
}


def need(prompt: Prompt, size: Callable[[str, str], int]) -> int:
    """Return the bytes of the model files of a workflow, each counted once; `size` gives those of (kind, name)."""
    named = set()
    for node in prompt.values():
        for input, kind in MODEL_INPUTS.items():
            value = node["inputs"].get(input)
            if isinstance(value, str):
                named.add((kind, value))
    return sum(size(kind, name) for kind, name in named)


def size_here(folders: Folders, kind: str, name: str) -> int:
    """Return the bytes of a model file of this machine; 0 where it lacks the file."""
    try:
        return folders.model(kind, name).stat().st_size if kind in KINDS else 0
    except (OSError, ValueError):
        return 0
