"""Devices, memory, dtypes and interruption."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from attention_patchbay.ldm_patched.modules import model_management as mm


def pretend(monkeypatch, *, cuda: tuple[int, int] | None = None, mps: bool = False) -> None:
    """Make the machine look as if it had a GPU of that compute capability, or Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


# Devices


@pytest.mark.parametrize(
    ("machine", "device"),
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": (8, 0)}, "cuda:1"), ({"cuda": (8, 0), "mps": True}, "cuda:1")],
)
def test_the_device_of_models(monkeypatch, machine, device):
    pretend(monkeypatch, **machine)
    assert mm.get_torch_device() == mm.vae_device() == torch.device(device)
    assert mm.cpu_mode() == (device == "cpu")


def test_text_encoders_stay_on_the_cpu_where_half_precision_is_slow(monkeypatch):
    pretend(monkeypatch, cuda=(6, 1))
    assert mm.text_encoder_device() == torch.device("cpu")
    pretend(monkeypatch, cuda=(7, 5))
    assert mm.text_encoder_device() == torch.device("cuda", 1)


def test_device_kinds():
    assert mm.is_device_cpu("cpu") and mm.is_device_cpu(torch.device("cpu", 0))
    assert mm.is_device_cuda("cuda:1") and not mm.is_device_cuda("mps")
    assert mm.is_device_mps("mps") and not mm.is_device_cpu("mps")
    assert mm.is_device_type("meta", "meta")


# Dtypes


@pytest.mark.parametrize(
    ("machine", "weights", "dtype"),
    [
        ({}, torch.float16, torch.float32),
        ({}, torch.bfloat16, torch.float32),
        ({"mps": True}, torch.float16, torch.float16),
        ({"cuda": (6, 1)}, torch.float16, torch.float32),
        ({"cuda": (7, 5)}, torch.bfloat16, torch.float16),
        ({"cuda": (8, 0)}, torch.bfloat16, torch.bfloat16),
        ({"cuda": (8, 0)}, torch.float32, torch.float16),
    ],
)
def test_the_dtype_that_a_unet_computes_in(monkeypatch, machine, weights, dtype):
    pretend(monkeypatch, **machine)
    assert mm.unet_dtype(weight_dtype=weights) == dtype


def test_a_unet_that_overflows_float16_computes_in_bfloat16(monkeypatch):
    pretend(monkeypatch, cuda=(8, 0))
    assert mm.unet_dtype(supported_dtypes=(torch.bfloat16, torch.float32)) == torch.bfloat16


@pytest.mark.parametrize(
    ("machine", "text", "vae"),
    [
        ({}, torch.float32, torch.float32),
        ({"cuda": (7, 5)}, torch.float16, torch.float32),
        ({"cuda": (8, 0)}, torch.float16, torch.bfloat16),
    ],
)
def test_the_dtypes_of_text_encoders_and_vaes(monkeypatch, machine, text, vae):
    pretend(monkeypatch, **machine)
    assert (mm.text_encoder_dtype(), mm.vae_dtype()) == (text, vae)


# Memory


def test_free_memory_of_this_machine():
    free, held = mm.get_free_memory("cpu", True)
    assert held == 0
    assert 0 < free <= mm.get_total_memory("cpu")
    assert mm.get_total_memory("cpu", True) == (mm.get_total_memory("cpu"),) * 2
    assert abs(mm.get_free_memory("cpu") - free) < 2**31


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc/meminfo")
def test_memory_without_psutil(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with open("/proc/meminfo") as lines:
        fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    assert mm.get_total_memory("cpu") == fields["MemTotal"]
    assert abs(mm.get_free_memory("cpu") - fields["MemAvailable"]) < 2**30


def test_memory_with_psutil(monkeypatch):
    class Psutil:
        @staticmethod
        def virtual_memory():
            return type("Memory", (), {"available": 3, "total": 5})

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "psutil", Psutil)
    assert (mm.get_free_memory("cpu"), mm.get_total_memory("cpu")) == (3, 5)


def test_memory_of_a_cuda_device(monkeypatch):
    stats = {"reserved_bytes.all.current": 100, "active_bytes.all.current": 60}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert mm.get_free_memory("cuda", True) == (1040, 40)
    assert mm.get_total_memory("cuda", True) == (5000, 100)


@pytest.mark.parametrize(
    ("error", "oom"),
    [
        (mm.OOM_EXCEPTION("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, oom):
    assert mm.is_oom(error) is oom


def test_a_real_allocation_that_does_not_fit_counts():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert mm.is_oom(caught.value)


def test_the_cache_can_be_emptied_without_a_gpu():
    mm.soft_empty_cache()


# Attention


@pytest.mark.parametrize(
    ("version", "broken"),
    [
        ("0.0.20", False),
        ("0.0.21", True),
        ("0.0.23.post1", True),
        ("0.0.26+cu121", True),
        ("0.0.29", True),
        ("0.0.30", False),
        ("0.0.35", False),
        ("0.1.21", False),
        ("0.0.2", False),
    ],
)
def test_broken_xformers_releases(version, broken):
    assert mm.is_broken_xformers(version) is broken


def test_attention_choices(monkeypatch):
    assert mm.pytorch_attention_enabled()
    monkeypatch.setattr(mm, "XFORMERS_INSTALLED", True)
    pretend(monkeypatch)
    assert not mm.xformers_enabled()
    pretend(monkeypatch, cuda=(8, 0))
    assert mm.xformers_enabled()


# Interruption


def test_an_interrupt_is_raised_once():
    mm.throw_exception_if_processing_interrupted()
    mm.interrupt_current_processing()
    assert mm.processing_interrupted()
    with pytest.raises(mm.InterruptProcessingException):
        mm.throw_exception_if_processing_interrupted()
    assert not mm.processing_interrupted()
    mm.throw_exception_if_processing_interrupted()


def test_an_interrupt_can_be_withdrawn_and_comes_from_any_thread():
    other = threading.Thread(target=mm.interrupt_current_processing)
    other.start()
    other.join()
    assert mm.processing_interrupted()
    mm.interrupt_current_processing(False)
    mm.throw_exception_if_processing_interrupted()


def test_no_broad_handler_swallows_an_interrupt():
    assert not issubclass(mm.InterruptProcessingException, Exception)
