"""All attention functions by name, and the choice of one for a call."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import NamedTuple

import torch
from torch import Tensor

from ....modules import model_management
from . import __path__ as FOLDER  # noqa: N811
from .call import AttentionCall
from .kernel import Backend

__all__ = ["KNOWN", "AttentionCall", "Backend", "NoBackendError", "Selection"]

# Shared workflows hold these names, and a list of them in this order: new ones come last.
SHARED = (
    "basic",
    "sub_quad",
    "split",
    "pytorch",
    "xformers",
    "flash",
    "sage",
    "sage3",
    "comfy_kitchen_int8",
    "cpu_tiled",
    "cpu_bf16",
    "sdpa_flash",
    "sdpa_efficient",
    "sdpa_cudnn",
    "flash3",
    "flex",
    "flash4",
)
USERS = {"registry", "dispatch"}  # the files of this folder that are built on the registry


class Selection(NamedTuple):
    """The chosen backend, and those asked before it with their reasons."""

    backend: Backend
    skipped: tuple[tuple[str, tuple[str, ...]], ...]


class NoBackendError(NotImplementedError):
    """No registered function can run a call; the text lists every one and why not."""

    def __init__(self, call: AttentionCall) -> None:
        lines = [f"no attention function can run this call: {call}"]
        lines += [f"  {name}: {'; '.join(_reasons(name, call))}" for name in names()]
        super().__init__("\n".join(lines))


def _declared() -> dict[str, Backend]:
    """Return the backends that the files of this folder declare."""
    names = [found.name for found in pkgutil.iter_modules(FOLDER) if found.name not in USERS]
    modules = [importlib.import_module(f".{name}", __package__) for name in sorted(names)]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Backend)]
    return {backend.name: backend for backend in found}


# The same list on every machine, so that a shared workflow always holds a valid choice.
KNOWN: tuple[str, ...] = tuple(dict.fromkeys((*SHARED, *_declared())))
_registry = {name: _declared()[name] for name in KNOWN}


def register(backend: Backend) -> None:
    """Add a backend, or replace the one of the same name."""
    _registry[backend.name] = backend


def get(name: str) -> Backend | None:
    """Return the backend of that name, None if nothing is registered under it."""
    return _registry.get(name)


def names() -> tuple[str, ...]:
    """Return all names that can be asked for: the shared ones, then those that only this host has."""
    return tuple(dict.fromkeys((*KNOWN, *_registry)))


def usable() -> tuple[str, ...]:
    """Return the names of the backends that run on this machine."""
    return tuple(name for name, backend in _registry.items() if backend.absent() is None)


def available(call: AttentionCall) -> tuple[Backend, ...]:
    """Return the backends that can run a call."""
    return tuple(backend for backend in _registry.values() if not backend.reasons(call))


def preference(on_cpu: bool, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the names that `auto` and the default try in turn; quantised kernels are chosen by name only."""
    tiles = on_cpu and dtype in (torch.bfloat16, torch.float32)
    return _order(tiles, model_management.xformers_enabled(), model_management.pytorch_attention_enabled())


@functools.cache
def _order(tiles: bool, xformers: bool, pytorch: bool) -> tuple[str, ...]:
    asked = {"cpu_tiled": tiles, "xformers": xformers, "pytorch": pytorch}
    return (*(name for name, wanted in asked.items() if wanted), "sub_quad", "split", "basic")


def first(q: Tensor, k: Tensor, heads: int) -> Backend | None:
    """Return the backend that `auto` asks first for tensors in either layout, before it knows more of the call."""
    for name in preference(q.is_cpu, q.dtype):
        backend = _registry.get(name)
        if (
            backend is None
            or backend.pays is None
            or backend.pays(q.shape[0] * heads, q.shape[-2], k.shape[-2], q.dtype)
        ):
            return backend
    return None


def select(call: AttentionCall, wanted: str = "auto") -> Selection:
    """Return the first backend that can run a call: the wanted one, then those of `preference` that pay.

    Raises ValueError for a name that does not exist, and NoBackendError when nothing can run the call.
    """
    if wanted not in ("auto", *names()):
        raise ValueError(f"unknown attention function {wanted!r}: choose auto or one of {', '.join(names())}")
    skipped: list[tuple[str, tuple[str, ...]]] = []
    order = tuple(name for name in preference(call.device == "cpu", call.dtype) if _pays(name, call))
    for name in dict.fromkeys(order if wanted == "auto" else (wanted, *order)):
        reasons = _reasons(name, call)
        if not reasons:
            return Selection(_registry[name], tuple(skipped))
        skipped.append((name, reasons))
    raise NoBackendError(call)


def _pays(name: str, call: AttentionCall) -> bool:
    backend = _registry.get(name)
    return backend is None or backend.pays is None or backend.pays(call.b * call.heads, call.n_q, call.n_k, call.dtype)


def _reasons(name: str, call: AttentionCall) -> tuple[str, ...]:
    backend = _registry.get(name)
    return ("is not registered",) if backend is None else tuple(backend.reasons(call))
