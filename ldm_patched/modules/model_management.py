"""Devices, memory, dtypes and interruption: what a model may use on this machine."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
import threading
from typing import Literal, overload

import torch

MIB = 2**20
OOM_EXCEPTION = torch.OutOfMemoryError


# Devices


def get_torch_device() -> torch.device:
    """Return the device that models run on: CUDA, then MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def is_device_type(device: torch.device | str, kind: str) -> bool:
    """Return whether `device` is of `kind`: "cpu", "cuda" or "mps"."""
    return torch.device(device).type == kind


def is_device_cpu(device: torch.device | str) -> bool:
    """Return whether `device` is the CPU."""
    return is_device_type(device, "cpu")


def is_device_cuda(device: torch.device | str) -> bool:
    """Return whether `device` is a CUDA one."""
    return is_device_type(device, "cuda")


def is_device_mps(device: torch.device | str) -> bool:
    """Return whether `device` is Apple's GPU."""
    return is_device_type(device, "mps")


def cpu_mode() -> bool:
    """Return whether models run on the CPU."""
    return is_device_cpu(get_torch_device())


def text_encoder_device() -> torch.device:
    """Return the device of text encoders: the GPU where it computes in half precision, else the CPU."""
    device = get_torch_device()
    return device if should_use_fp16(device) else torch.device("cpu")


def vae_device() -> torch.device:
    """Return the device of VAEs."""
    return get_torch_device()


def unet_offload_device() -> torch.device:
    """Return the device that keeps the weights of models that do not run."""
    return torch.device("cpu")


def intermediate_device() -> torch.device:
    """Return the device of latents and images between nodes."""
    return torch.device("cpu")


# Memory


@overload
def get_free_memory(dev: torch.device | str | None = None, torch_free_too: Literal[False] = False) -> int: ...
@overload
def get_free_memory(dev: torch.device | str | None, torch_free_too: Literal[True]) -> tuple[int, int]: ...
def get_free_memory(dev: torch.device | str | None = None, torch_free_too: bool = False) -> int | tuple[int, int]:
    """Return the bytes that can be allocated on `dev`, and with `torch_free_too` those that torch holds unused."""
    device = get_torch_device() if dev is None else torch.device(dev)
    held = 0
    if device.type == "cuda":
        stats = torch.cuda.memory_stats(device)
        held = stats.get("reserved_bytes.all.current", 0) - stats.get("active_bytes.all.current", 0)
        free = torch.cuda.mem_get_info(device)[0] + held
    else:
        free = _system_memory()[0]
    return (free, held) if torch_free_too else free


@overload
def get_total_memory(dev: torch.device | str | None = None, torch_total_too: Literal[False] = False) -> int: ...
@overload
def get_total_memory(dev: torch.device | str | None, torch_total_too: Literal[True]) -> tuple[int, int]: ...
def get_total_memory(dev: torch.device | str | None = None, torch_total_too: bool = False) -> int | tuple[int, int]:
    """Return the bytes that `dev` has, and with `torch_total_too` those that torch has reserved of them."""
    device = get_torch_device() if dev is None else torch.device(dev)
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
        reserved = torch.cuda.memory_stats(device).get("reserved_bytes.all.current", 0)
    else:
        total = reserved = _system_memory()[1]
    return (total, reserved) if torch_total_too else total


def _system_memory() -> tuple[int, int]:
    """Return available and total bytes of the machine."""
    if importlib.util.find_spec("psutil") is not None:
        import psutil

        memory = psutil.virtual_memory()
        return memory.available, memory.total
    if sys.platform == "win32":
        return _windows_memory()
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        if "MemAvailable" in fields:
            return int(fields["MemAvailable"].split()[0]) * 1024, total
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return page * os.sysconf("SC_AVPHYS_PAGES"), total
    return total // 2, total  # macOS counts no free pages for sysconf


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
        (name, ctypes.c_ulonglong)
        for name in (
            "total",
            "available",
            "total_page",
            "available_page",
            "total_virtual",
            "available_virtual",
            "extended",
        )
    ]


def _windows_memory() -> tuple[int, int]:
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.available, status.total


def is_oom(error: BaseException) -> bool:
    """Return whether an error means that memory ran out; the CPU and MPS allocators raise a plain RuntimeError."""
    if isinstance(error, (OOM_EXCEPTION, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def soft_empty_cache(force: bool = False) -> None:
    """Give cached device memory back to the system."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


# Attention


def pytorch_attention_enabled() -> bool:
    """Return whether torch's fused attention is the default; it is on every device that torch supports."""
    return True


def xformers_enabled() -> bool:
    """Return whether xformers is installed and a GPU is there to run its kernels; does not import it."""
    return XFORMERS_INSTALLED and torch.cuda.is_available()


def is_broken_xformers(version: str) -> bool:
    """Return whether an xformers release fails for batch * heads > 65535: 0.0.21 up to 0.0.29."""
    numbers = version.split("+")[0].split(".")
    return numbers[:2] == ["0", "0"] and len(numbers) > 2 and numbers[2].isdigit() and 21 <= int(numbers[2]) <= 29


XFORMERS_INSTALLED = importlib.util.find_spec("xformers") is not None
BROKEN_XFORMERS_LIMIT = 65535  # batch * heads
BROKEN_XFORMERS = XFORMERS_INSTALLED and is_broken_xformers(importlib.metadata.version("xformers"))


# Dtypes


def should_use_fp16(device: torch.device | str | None = None, model_params: int = 0) -> bool:
    """Return whether `device` computes well in float16: CUDA from capability 7.0, and MPS."""
    device = get_torch_device() if device is None else torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (7, 0)
    return device.type == "mps"


def should_use_bf16(device: torch.device | str | None = None, model_params: int = 0) -> bool:
    """Return whether `device` computes well in bfloat16: CUDA from capability 8.0."""
    device = get_torch_device() if device is None else torch.device(device)
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def unet_dtype(
    device: torch.device | str | None = None,
    supported_dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32),
    weight_dtype: torch.dtype | None = None,
) -> torch.dtype:
    """Return the dtype to compute a UNet in; half weights compute in float32 on a CPU."""
    if weight_dtype == torch.bfloat16 and weight_dtype in supported_dtypes and should_use_bf16(device):
        return torch.bfloat16
    if torch.float16 in supported_dtypes and should_use_fp16(device):
        return torch.float16
    if torch.bfloat16 in supported_dtypes and should_use_bf16(device):
        return torch.bfloat16
    return torch.float32


def text_encoder_dtype(device: torch.device | str | None = None) -> torch.dtype:
    """Return the dtype to compute a text encoder in."""
    return torch.float16 if should_use_fp16(device) else torch.float32


def vae_dtype(device: torch.device | str | None = None) -> torch.dtype:
    """Return the dtype to compute a VAE in: bfloat16 where it is fast, else float32, as SD's VAE overflows float16."""
    return torch.bfloat16 if should_use_bf16(device) else torch.float32


# Interruption


class InterruptProcessingException(BaseException):
    """Raised inside a run that the user has stopped; not an Exception, so that no broad handler swallows it."""


_interrupted = threading.Event()


def interrupt_current_processing(value: bool = True) -> None:
    """Ask the current run to stop, or withdraw the request with False."""
    if value:
        _interrupted.set()
    else:
        _interrupted.clear()


def processing_interrupted() -> bool:
    """Return whether the current run was asked to stop."""
    return _interrupted.is_set()


def throw_exception_if_processing_interrupted() -> None:
    """Raise InterruptProcessingException, once, if the current run was asked to stop."""
    if _interrupted.is_set():
        _interrupted.clear()
        raise InterruptProcessingException
