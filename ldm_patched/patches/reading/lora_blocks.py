"""The blocks of a LoRA file, with the norms of their changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..addressing.address import BLOCK_TYPES, BlockId
from .lora_layers import LoraLayer

OUTSIDE, TEXT = "outside of blocks", "text encoder"


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
