"""What a LoRA adds to the result of a layer, computed from the layer's input: the weight stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...modules.weight_adapters import LORA, Adapter

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution: the shape of its weight, and how a convolution slides."""

    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: Any = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def ones(self) -> tuple[int, ...]:
        """Return the kernel of one pixel."""
        return (1,) * (len(self.shape) - 2)

    def through(self, x: Tensor, weight: Tensor, slides: bool) -> Tensor:
        """Return x behind a weight; the one that `slides` goes over x as the layer's own does."""
        if not self.ones:
            return F.linear(x, weight)
        convolve = CONVOLUTIONS[len(self.ones)]
        if not slides:
            return convolve(x, weight)
        return convolve(x, weight, None, self.stride, self.padding, self.dilation, self.groups)


def layer_of(module: Any) -> Layer | None:
    """Return what a module is; None for one that is neither linear nor a convolution."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        plain = module.padding_mode == "zeros"
        return Layer(shape, module.stride, module.padding, module.dilation, module.groups) if plain else None
    # linear layers of quantized weights descend from no common class
    sides = getattr(module, "out_features", None), getattr(module, "in_features", None)
    return Layer(sides) if all(isinstance(side, int) for side in sides) else None  # type: ignore[arg-type]


@dataclass(frozen=True)
class Branch:
    """The change of a layer: an adapter, a tensor of the weight's shape, or one of the bias's.

    `rows` are the first of the outputs that it is for, and the one behind the last; None: all.
    """

    change: Adapter | Tensor
    layer: Layer
    rows: tuple[int, int] | None = None

    @cached_property
    def scale(self) -> float:
        """Return alpha / rank."""
        return 1.0 if isinstance(self.change, Tensor) else self.change.scale

    def to(self, device: torch.device, dtype: torch.dtype) -> Branch:
        """Return it where a layer computes."""
        if isinstance(self.change, Tensor):
            return replace(self, change=self.change.to(device, dtype))
        parts = {name: part.to(device, dtype) for name, part in self.change.parts.items()}
        return replace(self, change=replace(self.change, parts=parts))

    def fits(self) -> bool:
        """Return whether the shapes are those of the layer."""
        branch, layer = self.to(torch.device("meta"), torch.float32), self.layer
        if branch.of_bias:
            return branch.change.shape == layer.shape[:1]  # type: ignore[union-attr]
        sides = [gap * (side - 1) + 1 for gap, side in zip(layer.dilation, layer.shape[2:], strict=True)]
        x = torch.empty(1, layer.shape[1] * layer.groups, *sides, device="meta")
        try:
            for factor, slides in branch.factors():
                x = layer.through(x, factor, slides)
        except (RuntimeError, ValueError):
            return False
        return x.shape[1] == layer.shape[0]

    @property
    def of_bias(self) -> bool:
        """Return whether it changes the bias."""
        return isinstance(self.change, Tensor) and self.change.ndim == 1

    def factors(self) -> list[tuple[Tensor, bool]]:
        """Return the weights that x goes through one after another, and of each whether it slides.

        Those of low rank are views that are kept; the whole of a LoHa or LoKr is made anew, being as large as a weight.
        """
        low = isinstance(self.change, Tensor) or self.change.kind is LORA
        return self._views if low else self._factors()

    @cached_property
    def _views(self) -> list[tuple[Tensor, bool]]:
        return self._factors()

    def _factors(self) -> list[tuple[Tensor, bool]]:
        layer, change = self.layer, self.change
        if isinstance(change, Tensor):
            return [(change.reshape(layer.shape), True)]
        parts = change.parts
        if change.kind is not LORA or layer.groups > 1 or ("mid" in parts and not layer.ones):
            # neither LoHa nor LoKr looks at the weight, or at alpha and strength
            whole = change.kind.change(parts[next(iter(parts))], parts, 0.0, 1.0)
            return [(whole.reshape(layer.shape), True)]
        up, down = parts["up"].flatten(1), parts["down"]
        last = (up.reshape(*up.shape, *layer.ones), False)
        if "mid" in parts:
            return [(down.reshape(*down.flatten(1).shape, *layer.ones), False), (parts["mid"], True), last]
        return [(down.reshape(len(down), *layer.shape[1:]), True), last]

    def added(self, out: Tensor, x: Tensor, amount: float, mask: Tensor | None = None) -> Tensor:
        """Return the result of the layer for x with `amount` times the branch, where a mask lets it."""
        if self.rows is not None:
            first, end = self.rows
            part = replace(self, rows=None).added(out[..., first:end], x, amount, mask)
            return torch.cat([out[..., :first], part, out[..., end:]], -1)
        if self.of_bias:
            assert isinstance(self.change, Tensor)
            bias = self.change.reshape(-1, *self.layer.ones)
            return out + amount * (bias if mask is None else mask * bias)
        *before, (last, slides) = self.factors()
        for factor, first_slides in before:
            x = self.layer.through(x, factor, first_slides)
        if mask is not None and before:
            x = x * mask  # as wide as the rank
        if not self.layer.ones and before:
            flat = torch.addmm(out.flatten(0, -2), x.flatten(0, -2), last.t(), alpha=amount * self.scale)
            return flat.view(out.shape)
        change = self.layer.through(x, last, slides)
        if mask is not None and not before:
            change = change * mask
        return torch.add(out, change, alpha=amount * self.scale)
