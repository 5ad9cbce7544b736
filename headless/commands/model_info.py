"""What a model file holds, from its header alone: family, parts, blocks and dtypes. No weights are read."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

from ...ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from ...ldm_patched.files.preferences import preferred_functions, told
from ...ldm_patched.files.shapes import find_prefix
from ...ldm_patched.loading.model_detection import VAE_PREFIXES
from ...ldm_patched.patches.addressing.families import UNET, family_of
from ...ldm_patched.patches.reading.block_map import MapBlock, block_map
from ...ldm_patched.patches.reading.file_header import asked_in, family_name, model_of
from ...ldm_patched.text.text_encoders import find_text_encoders

# Keys that only one family of other models has, to name what cannot be read further.
OTHERS = {
    "lora_unet_": "LoRA",
    "lora_down.weight": "LoRA",
    "lora_A.weight": "LoRA",
    "control_model.": "ControlNet",
    "zero_convs.0.0.weight": "ControlNet",
}


def model_info(path: Path) -> dict[str, Any]:
    """Return what a file holds as plain values.

    Raises CheckpointError.
    """
    file, model = Checkpoint(path), model_of(path)
    dtypes = Counter(file.dtypes.values())
    family = family_name(model) if model is not None else _other(file)
    blocks = block_map(model, asked_in(file, model)) if model is not None else []
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "tensors": len(file),
        "parameters": sum(math.prod(shape) for shape in file.shapes.values()),
        "family": family,
        "parts": _parts(file, model),
        "dtypes": dict(dtypes.most_common()),
        "attention": preferred_functions(file),
        "blocks": [_block(block) for block in blocks],
        "metadata": {key: value[:200] for key, value in file.metadata.items()},
    }


def _block(block: MapBlock) -> dict[str, Any]:
    about = {"address": block.name, **{name: getattr(block, name) for name in ("depth", "heads", "dim_head", "factor")}}
    return {**about, "prefers": block.prefers} if block.prefers else about


def _parts(file: Checkpoint, model: Any) -> list[str]:
    parts = [] if model is None else ["UNet" if family_of(model).calls == UNET else "transformer"]
    with contextlib.suppress(CheckpointError):
        encoders = find_text_encoders(file)
        parts += [f"text encoder ({len(encoders)})"] if encoders else []
    return parts + (["VAE"] if find_prefix(file.shapes, VAE_PREFIXES, "decoder.conv_in.weight") is not None else [])


def _other(file: Checkpoint) -> str:
    for sign, name in OTHERS.items():
        if any(sign in key for key in file):
            return f"{name} (patchbay lora tells more)" if name == "LoRA" else f"{name} (not read further)"
    return "unknown"


def info_text(info: dict[str, Any]) -> str:
    """Return it for reading."""
    dtypes = ", ".join(f"{name} x{count}" for name, count in info["dtypes"].items())
    size = f"{info['bytes'] / 1e6:.1f} MB, {info['tensors']} tensors, {info['parameters'] / 1e6:.1f} M parameters"
    lines = [f"{info['file']}: {info['family']}", size, f"dtypes: {dtypes}"]
    if info["parts"]:
        lines.append(f"parts: {', '.join(info['parts'])}")
    if info["attention"]:
        lines.append(f"attention: prefers {told(info['attention'])} (in ComfyUI from 0.40 on)")
    for block in (block for block in info["blocks"] if block["depth"]):
        heads = f", {block['heads']} heads of {block['dim_head']}" if block["heads"] else ""
        tokens = f", tokens 1/{block['factor']}" if block["factor"] else ""
        prefers = f", prefers {block['prefers']}" if "prefers" in block else ""
        lines.append(f"  {block['address']:<10} {block['depth']} deep{heads}{tokens}{prefers}")
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in info["metadata"].items())])
