"""Weight patches: changes to a parameter that are applied for a run and taken back exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .weight_adapters import LORA, Adapter

# [(weight, function), patch, ...] of another model | (diff,) | ("diff", (diff,)) | ("set", (value,))
# | ("lora", (up, down, alpha, mid)) | Adapter
PatchValue = Any


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
        changed = _changed(patch, part, key)
        result = changed if patch.offset is None else _put(changed, part, result, key)
    return result.to(weight.dtype)


def _changed(patch: WeightPatch, part: Tensor, key: str) -> Tensor:
    """Return what a patch makes of a weight or a slice of one."""
    value, function = patch.value, patch.function or _unchanged
    if isinstance(value, list):
        (weight, converted), *patches = value
        value = (calculate_weight(patches, converted(weight), key),)
    value = _adapter(value)
    if isinstance(value, Adapter):
        try:
            return value.applied(part, patch.strength, function)
        except (RuntimeError, ValueError, IndexError) as error:
            shape = tuple(part.shape)
            raise ValueError(f"a {value.kind.name} patch does not fit {key} of shape {shape}: {error}") from error
    kind, data = ("diff", value) if len(value) == 1 else value
    if kind not in ("diff", "set"):
        raise ValueError(f"unknown patch type {kind!r} for {key}; known are diff, set, lora")
    change: Tensor = data[0].to(part)
    if change.shape != part.shape:
        raise ValueError(f"patch of {key} has shape {tuple(change.shape)}, the weight has {tuple(part.shape)}")
    if kind == "set":
        return change.clone()
    return part if patch.strength == 0.0 else part + function(change * patch.strength)


def _adapter(value: PatchValue) -> PatchValue:
    """Return a LoRA that is written as a tuple as an adapter."""
    if isinstance(value, Adapter) or len(value) == 1 or value[0] != "lora":
        return value
    up, down, alpha, mid = (*value[1], None, None)[:4]
    parts = {"up": up, "down": down} | ({} if mid is None else {"mid": mid})
    return Adapter(LORA, parts, None if alpha is None else float(alpha))


def _unchanged(change: Tensor) -> Tensor:
    return change


def _put(changed: Tensor, part: Tensor, whole: Tensor, key: str) -> Tensor:
    if changed.shape != part.shape:
        raise ValueError(f"a slice of {key} cannot get another shape: {tuple(changed.shape)}")
    part.copy_(changed)
    return whole
