"""Weight patches: changes to a parameter that are applied for a run and taken back exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PatchValue = Any  # (diff,) | ("diff", (diff,)) | ("set", (value,)) | ("lora", (up, down, alpha, mid))


class WeightPatch(NamedTuple):
    """One change of one weight.

    The weight is first multiplied by `strength_model`, then the patch is added times `strength`. `offset` is
    `(dim, start, length)` where only a slice is changed; `function` is applied to what is added.
    """

    strength: float
    value: PatchValue
    strength_model: float = 1.0
    offset: tuple[int, int, int] | None = None
    function: Callable[[Tensor], Tensor] | None = None


def calculate_weight(
    patches: Sequence[WeightPatch], weight: Tensor, key: str, intermediate_dtype: torch.dtype = torch.float32
) -> Tensor:
    """Apply patches in order to a copy of a weight and return it in the weight's own dtype."""
    result = weight.detach().to(intermediate_dtype, copy=True)
    for patch in patches:
        part = result if patch.offset is None else result.narrow(*patch.offset)
        if patch.strength_model != 1.0:
            part.mul_(patch.strength_model)
        _apply(patch, part, key)
    return result.to(weight.dtype)


def _apply(patch: WeightPatch, part: Tensor, key: str) -> None:
    kind, data = ("diff", patch.value) if len(patch.value) == 1 else patch.value
    if kind not in ("diff", "set", "lora"):
        raise ValueError(f"unknown patch type {kind!r} for {key}; known are diff, set, lora")
    change = _lora(data, part) if kind == "lora" else data[0].to(part)
    if change.shape != part.shape:
        raise ValueError(f"patch of {key} has shape {tuple(change.shape)}, the weight has {tuple(part.shape)}")
    if kind == "set":
        part.copy_(change)
    elif patch.strength != 0.0:
        change = change * patch.strength
        part.add_(change if patch.function is None else patch.function(change))


def _lora(data: Sequence[Any], part: Tensor) -> Tensor:
    """Multiply up (out, rank, ...) by down (rank, in, ...), through a middle (rank, rank, kh, kw) if there is one."""
    up, down, alpha, mid = (*data, None, None)[:4]
    up, down = up.to(part), down.to(part)
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    if mid is None:
        change = up.flatten(1) @ down.flatten(1)
    else:
        change = torch.einsum("or,rshw,si->oihw", up.flatten(1), mid.to(part), down.flatten(1))
    scaled: Tensor = change.reshape(part.shape) * scale
    return scaled
