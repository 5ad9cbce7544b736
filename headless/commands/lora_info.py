"""What a LoRA file holds: its blocks with the norms of their changes, kinds, ranks, and the model it is for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ldm_patched.files.checkpoint import Checkpoint
from ...ldm_patched.patches.addressing.address import BLOCK_TYPES, BlockId
from ...ldm_patched.patches.reading.lora_layers import LoraLayer, lora_layers
from ...ldm_patched.patches.reading.report import layout

OUTSIDE, TEXT = "outside of blocks", "text encoder"
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
    layers, model = lora_layers(dict(file))
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


def block_rows(layers: Sequence[LoraLayer]) -> list[dict[str, Any]]:
    """Return a row for each block in the order of a run, then for what is outside of blocks and in text encoders.

    `norm` is the root of the sum of the squares of its layers' norms, `relative` the same to the block that has most.
    """
    parts: dict[str, list[LoraLayer]] = {}
    for layer in sorted(layers, key=_place):
        parts.setdefault(part_of(layer), []).append(layer)
    rows = [_row(name, some) for name, some in parts.items()]
    most = max((row["norm"] or 0.0 for row in rows if row["block"] not in (OUTSIDE, TEXT)), default=0.0)
    for row in rows:
        row["relative"] = row["norm"] / most if row["norm"] is not None and most else None
    return rows


def part_of(layer: LoraLayer) -> str:
    """Return the address of a layer's block, or what it is of instead."""
    block = layer.place.block
    if layer.text:
        return TEXT
    return OUTSIDE if block is None else str(BlockId(block.type, block.number))


def _place(layer: LoraLayer) -> tuple[bool, int, int]:
    block = layer.place.block
    return layer.text, *((len(BLOCK_TYPES), 0) if block is None else (BLOCK_TYPES.index(block.type), block.number))


def _row(name: str, layers: Sequence[LoraLayer]) -> dict[str, Any]:
    norms = [layer.norm for layer in layers]
    known = [norm for norm in norms if norm is not None]
    norm = math.hypot(*known) if len(known) == len(norms) else None
    ranks = sorted({layer.rank for layer in layers if layer.rank is not None})
    return {"block": name, "layers": len(layers), "ranks": ranks, "norm": norm}


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
