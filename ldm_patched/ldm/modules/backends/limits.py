"""What kernels need of a machine and of a call: libraries that load, new GPUs, no gradients."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable

import torch

from .call import AttentionCall


def needs(module: str, package: str, capability: tuple[int, int] = (0, 0)) -> Callable[[], str | None]:
    """Return what tells why a library cannot be used here; the devices of the backend ask for the GPU itself."""

    def missing() -> str | None:
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed"
        if not torch.cuda.is_available():
            return None
        if torch.cuda.get_device_capability() < capability:
            return f"{package} needs a GPU of compute capability {capability[0]}.{capability[1]}"
        failure = failure_to_load(module)
        return None if failure is None else f"{package} is installed and cannot be loaded: {failure}"

    return missing


@functools.cache
def failure_to_load(module: str) -> str | None:
    """Return why an installed library cannot be imported, None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # one built for another torch or CUDA fails in ways of its own
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def gpu(capability: tuple[int, int]) -> Callable[[], str | None]:
    """Return what tells why a kernel of torch cannot run here; the devices of the backend ask for the GPU itself."""

    def missing() -> str | None:
        if torch.cuda.is_available() and torch.cuda.get_device_capability() < capability:
            return f"this kernel of torch needs a GPU of compute capability {capability[0]}.{capability[1]}"
        return None

    return missing


def no_gradients(call: AttentionCall) -> str | None:
    """Refuse calls whose gradients are wanted."""
    return "computes no gradients" if call.grad else None
