"""Tensors of a file under other names: what turns one public layout of weights into another without copying them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..modules.ops import FP8, CastWeight, scaled_weight
from .checkpoint import CheckpointError

Shape = tuple[int, ...]
SCALES = ("scale_weight", "weight_scale")  # the older and the newer name of what an fp8 weight is multiplied by


class Weights(Protocol):
    """Named tensors whose shapes are known without reading them."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Return every tensor's shape."""
        ...

    def __getitem__(self, key: str, /) -> Tensor: ...

    def __contains__(self, key: object, /) -> bool: ...


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from: a key, one of `thirds` equal parts of its rows, transposed, in another shape."""

    key: str
    third: int | None = None
    transposed: bool = False
    shape: Shape | None = None

    def shape_from(self, shape: Shape) -> Shape:
        """Return the shape of the tensor that comes out."""
        if self.third is not None:
            shape = (shape[0] // 3, *shape[1:])
        if self.transposed:
            shape = shape[::-1]
        return self.shape or shape

    def tensor_from(self, tensor: Tensor) -> Tensor:
        """Return the tensor that comes out."""
        if self.third is not None:
            tensor = tensor.chunk(3)[self.third]
        if self.transposed:
            tensor = tensor.T
        return tensor.reshape(self.shape or tensor.shape)


class WeightView(Mapping[str, Tensor]):
    """The tensors of other weights under new names; `prefix` is what the names had in front of them before.

    Raises KeyError when a source is missing, ValueError when a new shape has another number of elements.
    """

    def __init__(self, weights: Weights, sources: Mapping[str, Source], prefix: str = "") -> None:
        self._weights, self._sources, self.prefix = weights, dict(sources), prefix
        self.shapes = {new: source.shape_from(weights.shapes[source.key]) for new, source in sources.items()}
        for source in sources.values():
            if source.shape and math.prod(source.shape) != math.prod(weights.shapes[source.key]):
                raise ValueError(f"{source.key} has shape {weights.shapes[source.key]}, expected {source.shape}")

    def __getitem__(self, key: str) -> Tensor:
        source = self._sources[key]
        return source.tensor_from(self._weights[source.key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


def under(weights: Weights, prefix: str) -> WeightView:
    """Return the tensors below a prefix, without it."""
    sources = {key[len(prefix) :]: Source(key) for key in weights.shapes if key.startswith(prefix)}
    return WeightView(weights, sources, prefix)


def load_weights(
    module: nn.Module,
    tensors: Mapping[str, Tensor] | Weights,
    prefix: str,
    dtype: torch.dtype,
    image_format: torch.memory_format = torch.contiguous_format,
) -> None:
    """Give a module built on the meta device its weights, one tensor at a time; a missing one is an error."""
    state: dict[str, Any] = {}
    before = getattr(tensors, "prefix", "") + prefix
    for key, empty in module.state_dict().items():
        if prefix + key not in tensors:
            raise CheckpointError(f"{before}{key} is missing; the file is incomplete or of another kind")
        tensor = tensors[prefix + key]
        if tensor.shape != empty.shape:
            raise CheckpointError(f"{before}{key} has shape {tuple(tensor.shape)}, expected {tuple(empty.shape)}")
        if empty.is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(f"{before}{key} holds {tensor.dtype}, expected a float dtype; is it quantised?")
        tensor = _kept(module, key, tensor, scale_of(tensors, prefix + key), dtype)
        state[key] = tensor.contiguous(memory_format=image_format) if tensor.ndim == 4 else tensor
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def scale_of(tensors: Mapping[str, Tensor] | Weights, key: str) -> Tensor | None:
    """Return what a weight's numbers are multiplied by: one number, one for each row, or None.

    Raises CheckpointError for scales of other parts of a weight.
    """
    layer, _, name = key.rpartition(".")
    found = next((there for there in (f"{layer}.{scale}" for scale in SCALES) if there in tensors), None)
    if name != "weight" or found is None:
        return None
    scale = tensors[found]
    if scale.numel() not in (1, tensors[key].shape[0]):
        raise CheckpointError(f"{found} has shape {tuple(scale.shape)}; expected one scale, or one for each row")
    return scale.float().flatten()


def _kept(module: nn.Module, key: str, tensor: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return a tensor of a file as it stays in memory: fp8 where its layer casts at use, else in a dtype."""
    layer = module.get_submodule(key.rpartition(".")[0])
    if tensor.dtype in FP8 and tensor.ndim > 1 and isinstance(layer, CastWeight) and layer.takes_fp8:
        layer.keep_fp8(scale, dtype)
        return tensor
    return scaled_weight(tensor, scale, dtype) if tensor.is_floating_point() else tensor
