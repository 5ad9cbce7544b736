"""The layers of a LoRA file without its model: where each stands, by its name, and how large its change is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...files.lora import fault_of, named_patches
from ...modules.weight_adapters import LOHA, LOKR, LORA, Adapter, lokr_sides
from ..engine.lora import LENGTHS, TEXT, Place
from .lora_names import Names

DORA = "dora"


@dataclass(frozen=True)
class LoraLayer:
    """What a file holds for one layer, or for its bias.

    Args:
        name: that of the layer in the file.
        keys: all that the file has for it.
        patch: an adapter, or (kind, (tensor,)).
        text: whether it is of a text encoder.
    """

    name: str
    keys: frozenset[str]
    patch: Any = field(repr=False, compare=False)
    place: Place = Place()
    text: bool = False

    @property
    def kind(self) -> str:
        """Name the kind of change."""
        if not isinstance(self.patch, Adapter):
            return str(self.patch[0])
        return DORA if any(length in self.patch.parts for length in LENGTHS) else self.patch.kind.name

    @property
    def rank(self) -> int | None:
        """Return the rank of a product; None of any other change."""
        if not isinstance(self.patch, Adapter) or any(part.ndim == 0 for part in self.patch.parts.values()):
            return None
        return self.patch.kind.rank(self.patch.parts)

    @property
    def norm(self) -> float | None:
        """Return the norm of what is added to the weight at strength 1; None where that hangs on the weight.

        Of weight decomposition it is that of the product. No product of low rank is made for it. Raises ValueError for
        parts that do not fit each other.
        """
        if not isinstance(self.patch, Adapter):
            kind, (tensor, *_) = self.patch
            return float(tensor.float().norm()) if kind == "diff" else None
        size = NORMS.get(self.patch.kind)
        parts = {name: part.double() for name, part in self.patch.parts.items()}
        try:
            return None if size is None else abs(self.patch.scale) * size(parts)
        except (RuntimeError, LookupError, ZeroDivisionError) as error:
            shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in parts.items())
            raise ValueError(f"{self.name}: its parts do not fit each other: {shapes}") from error

    def check(self) -> None:
        """Raise ValueError for parts that do not fit each other."""
        _ = self.norm


def lora_layers(entries: Mapping[str, Tensor]) -> tuple[list[LoraLayer], str]:
    """Return the layers of a file in the order of its keys, and what model their names are of.

    Raises ValueError for a file that is damaged or holds none, or kinds that are not read.
    """
    if fault := fault_of(entries):
        raise ValueError(fault)
    found = list(named_patches(entries))
    if not found:
        raise ValueError(f"no LoRA; its first key is {min(entries)!r}")
    names = Names([name for name, _, _ in found if not name.startswith(TEXT)])
    layers = []
    for name, patch, keys in found:
        text = name.startswith(TEXT)
        layers.append(LoraLayer(name, frozenset(keys), patch, Place() if text else names.place(name), text))
    return layers, names.model(_text_width(layers))


def _text_width(layers: list[LoraLayer]) -> int | None:
    """Return how wide the text is that cross-attention of a UNet gets, where a layer that gets it tells."""
    for layer in layers:
        if layer.name.endswith(("attn2_to_k", "attn2.to_k")) and isinstance(layer.patch, Adapter):
            down = layer.patch.parts.get("down")
            return None if down is None or down.ndim < 2 else down.shape[1]
    return None


# Norms of what is added to a weight


def _lora(parts: Mapping[str, Tensor]) -> float:
    """Return |UD| as sqrt(tr(U'U DD')), for a convolution with a core M between as the same sum over its pixels."""
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    left, right = up.T @ up, down @ down.T  # (r, r), (s, s)
    if "mid" in parts:
        core = parts["mid"].flatten(2)  # (r, s, kh * kw)
        square = torch.einsum("ab,ash,st,bth->", left, core, right, core)
    else:
        square = (left * right).sum()
    return float(square.clamp(min=0.0).sqrt())


def _loha(parts: Mapping[str, Tensor]) -> float:
    return float(LOHA.change(parts["w1_a"], parts, 0.0, 1.0).norm())


def _lokr(parts: Mapping[str, Tensor]) -> float:
    left, right = lokr_sides(parts)
    return float(left.norm() * right.norm())


NORMS = {LORA: _lora, LOHA: _loha, LOKR: _lokr}
