"""All attention functions by name, and the choice of one for a call."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import NamedTuple

import torch

from ....modules import model_management
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
)
USERS = {"registry", "dispatch", "distributed"}  # the files of this folder that are built on the registry


class Selection(NamedTuple):
    """The chosen backend, and those asked before it with their reasons."""

    backend: Backend
    skipped: tuple[tuple[str, tuple[str, ...]], ...]


class NoBackendError(NotImplementedError):
    """No registered function can run a call; the text lists every one and why not."""

    def __init__(self, call: AttentionCall) -> None:
        lines = [f"no attention function can run this call: {call}"]
        lines += [f"  {name}: {'; '.join(_reasons(name, call))}" for name in dict.fromkeys((*KNOWN, *_registry))]
        super().__init__("\n".join(lines))


def _declared() -> dict[str, Backend]:
    """Return the backends that the files of this folder declare."""
    names = [found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)]) if found.name not in USERS]
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


def available(call: AttentionCall) -> tuple[Backend, ...]:
    """Return the backends that can run a call."""
    return tuple(backend for backend in _registry.values() if not backend.reasons(call))


def preference(device: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the names that `auto` and the default try in turn; quantised kernels are chosen by name only."""
    tiles = ("cpu_tiled",) if dtype is torch.bfloat16 and device == "cpu" else ()
    xformers = ("xformers",) if model_management.xformers_enabled() else ()
    pytorch = ("pytorch",) if model_management.pytorch_attention_enabled() else ()
    return (*tiles, *xformers, *pytorch, "sub_quad", "split", "basic")


def select(call: AttentionCall, wanted: str = "auto") -> Selection:
    """Return the first backend that can run a call: the wanted one, then those of `preference` that pay.

    Raises ValueError for a name that does not exist, and NoBackendError when nothing can run the call.
    """
    if wanted not in ("auto", *KNOWN, *_registry):
        raise ValueError(f"unknown attention function {wanted!r}: choose auto or one of {', '.join(KNOWN)}")
    skipped: list[tuple[str, tuple[str, ...]]] = []
    for name in dict.fromkeys((wanted, *preference(call.device, call.dtype))):
        backend = _registry.get(name)
        if name == "auto" or (name != wanted and backend is not None and not backend.pays(call)):
            continue
        reasons = _reasons(name, call)
        if backend is not None and not reasons:
            return Selection(backend, tuple(skipped))
        skipped.append((name, reasons))
    raise NoBackendError(call)


def _reasons(name: str, call: AttentionCall) -> tuple[str, ...]:
    backend = _registry.get(name)
    return ("is not registered",) if backend is None else tuple(backend.reasons(call))
