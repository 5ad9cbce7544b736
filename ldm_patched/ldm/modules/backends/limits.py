"""What kernels need of a machine and of a call: libraries that load, new GPUs, no gradients."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any

import torch

from . import hub
from .call import AttentionCall


def needs(
    module: str, package: str, capability: tuple[int, int] = (0, 0), amd: bool = False, source: str = ""
) -> Callable[[], str | None]:
    """Return what tells why a library cannot be used here; the devices of the backend ask for the GPU itself.

    Args:
        amd: whether it is made for AMD's GPUs too.
        source: the kernel of the hub that does as well, where it was fetched.
    """
    fits = gpu(capability, amd, package)

    def missing() -> str | None:
        absent = is_absent(module)
        if absent and source and hub.commit(source) is not None and hub.installed():
            return fits() or _failed(f"the hub's {source}", hub.failure(source))
        if absent:
            hint = f"; `patchbay kernels get {source}` fetches it" if source and hub.installed() else ""
            return f"{package} is not installed{hint}"
        if not torch.cuda.is_available():
            return None
        return fits() or _failed(package, failure_to_load(module))

    return missing


def is_absent(module: str) -> bool:
    """Return whether a library is not installed; of a part of one, without loading the whole."""
    top, _, part = module.partition(".")
    spec = importlib.util.find_spec(top)
    return spec is None or bool(part) and PathFinder.find_spec(module, spec.submodule_search_locations) is None


def _failed(what: str, reason: str | None) -> str | None:
    return None if reason is None else f"{what} is installed and cannot be loaded: {reason}"


def imported(module: str, function: str, source: str) -> Callable[..., Any]:
    """Return a function of an installed library, else of the kernel that was fetched from the hub in its place."""
    known = sys.modules.get(module)
    if known is None and is_absent(module):
        known = hub.module(source)
    found: Callable[..., Any] = getattr(known or importlib.import_module(module), function)
    return found


@functools.cache
def failure_to_load(module: str) -> str | None:
    """Return why an installed library cannot be imported, None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # one built for another torch or CUDA fails in ways of its own
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def gpu(capability: tuple[int, int], amd: bool = True, what: str = "this kernel of torch") -> Callable[[], str | None]:
    """Return what tells why a kernel cannot run on this GPU; the devices of the backend ask for the GPU itself.

    On AMD's GPUs, whose numbers mean something else, the capability says nothing.
    """

    def missing() -> str | None:
        if not torch.cuda.is_available():
            return None
        if torch.version.hip:
            return None if amd else f"{what} needs a GPU of NVIDIA"
        if torch.cuda.get_device_capability() < capability:
            return f"{what} needs a GPU of compute capability {capability[0]}.{capability[1]}"
        return None

    return missing


def no_gradients(call: AttentionCall) -> str | None:
    """Refuse calls whose gradients are wanted."""
    return "computes no gradients" if call.grad else None
