"""What a LoRA file holds: its blocks with the norms of their changes, kinds, ranks, and the model it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...ldm_patched.files.checkpoint import Checkpoint
from ...ldm_patched.patches.reading.lora_blocks import OUTSIDE, TEXT, block_rows
from ...ldm_patched.patches.reading.lora_layers import lora_layers
from ...ldm_patched.patches.reading.report import layout

# whose names the keys are, by a part of one
NAMES = {
    ".lora_up": "kohya",
    "_lora.up": "diffusers",
    ".lora.up": "diffusers",
    ".lora_linear_layer": "diffusers",
    ".lora_A": "peft",
    ".hada_": "LyCORIS",
    ".lokr_": "LyCORIS",
    ".oft_blocks": "LyCORIS",
    ".a1.weight": "LyCORIS",
    ".diff": "LyCORIS",
}
TRAINER = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name")
WIDTH = 20  # letters of the longest bar


def lora_info(path: Path) -> dict[str, Any]:
    """Return what a file holds as plain values; norms are None where they hang on the weights of the model.

    Raises CheckpointError, and ValueError for a file that is no LoRA.
    """
    file = Checkpoint(path)
    layers, model = lora_layers(file.loaded())
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "model": model,
        "trainer": {name: file.metadata[name][:200] for name in TRAINER if name in file.metadata},
        "names": list(dict.fromkeys(name for sign, name in NAMES.items() if any(sign in key for key in file))),
        "kinds": dict(Counter(layer.kind for layer in layers).most_common()),
        "dtypes": dict(Counter(file.dtypes.values()).most_common()),
        "layers": len(layers),
        "blocks": block_rows(layers),
    }


def lora_text(info: Mapping[str, Any]) -> str:
    """Return it for reading."""
    kinds = ", ".join(f"{name} x{count}" for name, count in info["kinds"].items())
    dtypes, names = ", ".join(info["dtypes"]), ", ".join(info["names"])
    lines = [
        f"{info['file']}: LoRA for {info['model']}",
        f"{info['bytes'] / 1e6:.1f} MB, {info['layers']} layers, {kinds}, {dtypes}; names of {names}",
        *(f"{name}: {value}" for name, value in info["trainer"].items()),
    ]
    rows = [[row["block"], str(row["layers"]), _ranks(row), *_norm(row)] for row in info["blocks"]]
    return "\n".join([*lines, *layout([["block", "layers", "rank", "norm", "", ""], *rows])])


def _ranks(row: Mapping[str, Any]) -> str:
    ranks = row["ranks"]
    return "-" if not ranks else str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"


def _norm(row: Mapping[str, Any]) -> tuple[str, str, str]:
    if row["relative"] is None:
        return "-" if row["norm"] is None else f"{row['norm']:.3g}", "", ""
    bar = "" if row["block"] in (OUTSIDE, TEXT) else "#" * round(WIDTH * row["relative"])
    return f"{row['norm']:.3g}", f"{100 * row['relative']:.0f} %", bar
