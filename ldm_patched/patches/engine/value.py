"""Frozen values: equal and hashed by all that is in them, tensors by their numbers, which nobody can change later."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, TypeVar

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def value(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that holds copies of the tensors it is given and compares them by content."""
    check = getattr(cls, "__post_init__", None)

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _own(getattr(self, field.name)))
        if check is not None:
            check(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    made = dataclasses.dataclass(frozen=True, eq=False)(cls)
    made.__eq__ = _equal  # type: ignore[method-assign]
    made.__hash__ = _hash  # type: ignore[method-assign]
    return made


def _own(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.detach().clone()
    if type(given) is dict:
        return {name: _own(one) for name, one in given.items()}
    if hasattr(given, "_make"):  # a NamedTuple
        return given._make(map(_own, given))
    return tuple(map(_own, given)) if type(given) is tuple else given


def _equal(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self) if f.compare)


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if type(one) is not type(other):
        return False  # True == 1, and is no equal setting
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(given, other[name]) for name, given in one.items())
    return bool(one == other)


def _hash(self: Any) -> int:
    parts = (getattr(self, field.name) for field in dataclasses.fields(self) if field.compare)
    return hash((type(self), *map(_digest, parts)))


def _digest(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_digest, x))
    if isinstance(x, dict):
        return frozenset((name, _digest(one)) for name, one in x.items())
    if not isinstance(x, Tensor):
        return x
    numbers = x.cpu().contiguous().flatten()
    return hashlib.sha256(repr((x.dtype, x.shape)).encode() + numbers.view(torch.uint8).numpy().tobytes()).digest()
