"""A LoRA file whose blocks are scaled by rules, so that any loader gives what the rules would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...modules.weight_adapters import GLORA, LOHA, LOKR, LORA, Adapter
from ..addressing.blocks import UNET_TYPES
from ..routing.strengths import StrengthRule
from .lora_blocks import block_rows
from .lora_layers import DORA, LoraLayer, lora_layers

# The parts that are multiplied by a strength: what is added to a weight is linear in each
SCALED = {LORA: ("up",), LOHA: ("w1_a",), LOKR: ("w1", "w1_a"), GLORA: ("a1", "b1")}


def baked(entries: Mapping[str, Tensor], rules: Sequence[StrengthRule]) -> dict[str, Tensor]:
    """Return a LoRA that gives at strength 1 what `entries` give by rules; text encoders keep theirs.

    A layer of strength 0 is left out. Raises ValueError for rules that a file cannot hold, and for kinds that cannot be
    scaled.
    """
    kept = dict(entries)
    layers, _ = lora_layers(kept)
    _check(rules, layers)
    for layer in layers:
        strength = 1.0 if layer.text else _strength(layer, rules)
        if strength == 0.0:
            for key in layer.keys:
                kept.pop(key, None)
            continue
        layer.check()
        if strength != 1.0:
            kept |= _scaled(layer, kept, strength)
    if not kept:
        raise ValueError(nothing(rules, layers))
    return kept


def idle(rules: Sequence[StrengthRule], layers: Sequence[LoraLayer]) -> list[StrengthRule]:
    """Return the rules that take no layer of a file.

    What `input`, `middle` or `output` are of a transformer, only the model tells; such rules are none of them.
    """
    places = [layer.place for layer in layers if not layer.text]
    told = _in_unet(types_of(layers))
    some = [rule for rule in rules if told or not any(term.type in UNET_TYPES for term in rule.where.address.terms)]
    return [rule for rule in some if not any(place.lies_in(rule.where.address) for place in places)]


def types_of(layers: Sequence[LoraLayer]) -> list[str]:
    """Return the types of the blocks that a file has layers in."""
    return sorted({layer.place.block.type for layer in layers if layer.place.block is not None})


def nothing(rules: Sequence[StrengthRule], layers: Sequence[LoraLayer]) -> str:
    """Say why rules leave nothing of a file."""
    missed = ", ".join(f"'{rule.where}'" for rule in idle(rules, layers) if rule.strength)
    if missed:
        blocks = ", ".join(row["block"] for row in block_rows(layers))
        return f"no layer of this file lies in {missed}; its blocks are {blocks}"
    return "these rules leave nothing of the file; give some block a strength"


def _strength(layer: LoraLayer, rules: Sequence[StrengthRule]) -> float:
    return next((rule.strength for rule in rules if layer.place.lies_in(rule.where.address)), 0.0)


def _check(rules: Sequence[StrengthRule], layers: Sequence[LoraLayer]) -> None:
    types = types_of(layers)
    for rule in rules:
        if not rule.where.schedule.always:
            raise ValueError(
                f"the rule for '{rule.where}' holds in a part of the run, and a file has one strength for a whole run; "
                "leave the window out, or keep the rule in the node Load LoRA by Rules"
            )
        for term in rule.where.address.terms:
            if term.type is not None and term.type not in types and not (_in_unet(types) and term.type in UNET_TYPES):
                raise ValueError(f"this LoRA has no blocks '{term.type}'; it has {', '.join(types) or 'none'}")


def _in_unet(types: Sequence[str]) -> bool:
    return bool(types) and set(types) <= set(UNET_TYPES)


def _scaled(layer: LoraLayer, entries: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """Return the entries of a layer that a strength changes; computed in float32, in the dtype that they had."""
    patch = layer.patch
    if isinstance(patch, Adapter):
        names = SCALED.get(patch.kind, ())
        parts = [patch.parts[name] for name in names if name in patch.parts]
    else:
        parts = [patch[1][0]] if layer.kind == "diff" else []
    if not parts or layer.kind == DORA:
        raise ValueError(
            f"{layer.name}: {layer.kind} cannot be scaled in the file; give its block the strength 0 or 1, not "
            f"{strength:g}"
        )
    keys = [key for key in layer.keys if any(entries[key] is part for part in parts)]
    return {key: (entries[key].float() * strength).to(entries[key].dtype) for key in keys}
