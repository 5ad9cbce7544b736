"""The blocks of a model file, from its header alone: no weights are read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ...files.checkpoint import Checkpoint, CheckpointError
from ...files.preferences import preferred_layers
from ...loading import sd
from ...loading.model_detection import UNET_PREFIXES, detect_unet, model_config
from ...modules.model_patcher import ModelPatcher
from ..addressing.families import UNET, family_of
from ..record.run import AttentionId
from ..routing.kept_choices import PREFIXES
from ..routing.layer_choices import layers
from .block_map import block_map, rows
from .transformer_header import transformer_of


def model_of(path: Path) -> Any:
    """Return the model of a file without weights; None where it holds no model of a family that is known here.

    Raises CheckpointError for a file that is no sound safetensors file.
    """
    file = Checkpoint(path)
    transformer = transformer_of(file.shapes)
    if transformer is not None:
        return transformer
    try:
        unet = sd.find_unet(file, UNET_PREFIXES)
        config = model_config(detect_unet(unet.shapes), file, None)
    except CheckpointError:
        return None
    return ModelPatcher(sd.build_model(config), torch.device("cpu"), torch.device("cpu"))


def family_name(model: Any) -> str:
    """Return the family of a model patcher's model, of a UNet which one."""
    known = family_of(model)
    return str(model.model.model_config.family) if known.calls == UNET else known.name


def asked_in(file: Checkpoint, model: Any) -> dict[AttentionId, str]:
    """Return the functions that the layers of a file ask for, by the attention of its model."""
    asked = preferred_layers(file)
    if not asked:
        return {}
    known = dict(layers(model))
    prefix = next((one for one in PREFIXES if any(f"{one}{path}" in asked for path in known.values())), "")
    return {one: asked[prefix + path] for one, path in known.items() if prefix + path in asked}


def file_blocks(path: Path) -> dict[str, Any] | None:
    """Return family, kinds of attention, blocks of each type and block map of a file as plain values, if it is known.

    Raises CheckpointError for a file that is no sound safetensors file.
    """
    model = model_of(path)
    if model is None:
        return None
    found = block_map(model, asked_in(Checkpoint(path), model))
    return {
        "family": family_name(model),
        "kinds": family_of(model).kinds,
        "blocks": dict(Counter(block.type for block in found)),
        "map": rows(found),
    }
