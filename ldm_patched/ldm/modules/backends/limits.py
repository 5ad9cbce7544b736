"""What kernels need beyond what their entry declares: libraries that load, new GPUs, calls of certain shapes."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ....modules import model_management

if TYPE_CHECKING:
    from .registry import AttentionCall

SAGE_BLOCK = 64  # keys that SageAttention 1 takes at once


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


def cudnn_limit(call: AttentionCall) -> str | None:
    """Tell what cuDNN does not take."""
    if call.dim_head % 8:
        return f"takes heads of a multiple of 8 channels, not {call.dim_head}"
    return "takes more than one query and key" if min(call.n_q, call.n_k) < 2 else no_gradients(call)


def tiles_limit(call: AttentionCall) -> str | None:
    """Tell what the tiles of a CPU do not take."""
    if call.precision == torch.float32:
        return "takes no float32 scores"
    return no_gradients(call)


def sage_limit(call: AttentionCall) -> str | None:
    """Tell what SageAttention does not take: version 1 counts keys of score 0 that are not there in its last block."""
    if call.n_k % SAGE_BLOCK and sage_version() == 1:
        return f"version 1 takes keys in whole blocks of {SAGE_BLOCK}, not {call.n_k}"
    return None


@functools.cache
def sage_version() -> int:
    """Return the installed version of SageAttention; 2 where there is no record of it, which version 1 leaves."""
    try:
        return int(importlib.metadata.version("sageattention").partition(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return 2


def xformers_limit(call: AttentionCall) -> str | None:
    """Tell what xformers does not take; on a GPU it is asked itself."""
    if model_management.BROKEN_XFORMERS and call.b * call.heads > model_management.BROKEN_XFORMERS_LIMIT:
        return f"this release fails for batch * heads > {model_management.BROKEN_XFORMERS_LIMIT}"
    if call.dim_head * call.dtype.itemsize % 16:
        return f"takes heads whose channels fill whole 16 bytes, not {call.dim_head} of {call.dtype}"
    if call.device == "cuda" and torch.cuda.is_available() and failure_to_load("xformers.ops") is None:
        return refusal_of_xformers(call.dtype, call.dim_head, call.mask is not None)
    return None


@functools.cache
def refusal_of_xformers(dtype: torch.dtype, dim_head: int, masked: bool) -> str | None:
    """Return why xformers has no kernel for a kind of call on this GPU, None if a small call of it runs.

    Which it has depends on the GPU, on how it was built, and on whether that fits this torch.
    """
    from xformers.ops import memory_efficient_attention

    x = torch.zeros(1, 8, 1, dim_head, dtype=dtype, device="cuda")  # (b, n, h, d)
    try:
        memory_efficient_attention(x, x, x, attn_bias=x.new_zeros(1, 1, 8, 8) if masked else None)
    except NotImplementedError as error:
        reasons = str(error).partition("because:")[2].split("\n`")[0].strip().splitlines()
        said = "; ".join(line.strip() for line in reasons) or str(error)
        return f"xformers has no kernel for this call here: {said}"
    return None
