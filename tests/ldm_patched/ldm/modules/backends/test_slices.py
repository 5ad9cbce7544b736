"""Running out of memory halves the slice; budgets keep calls small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules import sub_quadratic_attention
from attention_patchbay.ldm_patched.ldm.modules.backends import slices, split, sub_quad
from attention_patchbay.ldm_patched.modules import model_management

from .conftest import float64_attention

CPU_OOM = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"


class Scarce:
    """An attend() that runs out of memory for more than `fit` queries."""

    def __init__(self, attend, fit, error):
        self.attend, self.fit, self.error = attend, fit, error
        self.tried = []

    def __call__(self, q, *args):
        self.tried.append(q.shape[-2])
        if q.shape[-2] > self.fit:
            raise self.error
        return self.attend(q, *args)


@pytest.fixture(params=["split", "sub_quad"])
def scarce(request, monkeypatch):
    """Give the function under test, and a maker of shortage at its inner product."""
    module, function = {
        "split": (split, split.attention_split),
        "sub_quad": (sub_quadratic_attention, sub_quad.attention_sub_quad),
    }[request.param]

    def limit(fit, error):
        stand_in = Scarce(module.attend, fit, error)
        monkeypatch.setattr(module, "attend", stand_in)
        return stand_in

    return function, limit


@pytest.mark.parametrize(
    "error",
    [
        model_management.OOM_EXCEPTION("CUDA out of memory."),
        RuntimeError(CPU_OOM),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=lambda e: str(e)[:4],
)
def test_out_of_memory_halves_the_slice(scarce, error):
    function, limit = scarce
    shortage = limit(13, error)
    q, k, v = torch.randn(3, 2, 4, 101, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(101, 101, dtype=torch.bool).tril_()
    out = function(q, k, v, 4, mask=mask, skip_reshape=True, skip_output_reshape=True)
    assert (out.double() - float64_attention(q, k, v, mask.expand(2, 4, 101, 101))).abs().max() < 1e-5
    assert shortage.tried == [101, 50, 25] + [12] * 8 + [5]


def test_out_of_memory_is_raised_when_the_smallest_slice_fails(scarce):
    function, limit = scarce
    shortage = limit(0, model_management.OOM_EXCEPTION("CUDA out of memory."))
    q = torch.randn(1, 2, 16, 8)
    with pytest.raises(model_management.OOM_EXCEPTION):
        function(q, q, q, 2, skip_reshape=True)
    assert shortage.tried == [16, 8, 4, 2, 1]


def test_another_error_is_raised_at_once(scarce):
    function, limit = scarce
    shortage = limit(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    q = torch.randn(1, 2, 16, 8)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        function(q, q, q, 2, skip_reshape=True)
    assert shortage.tried == [16]


def test_the_budget_is_a_share_of_free_memory_with_a_cap(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(model_management, "get_free_memory", lambda device: 100 * 2**20)
    assert slices.memory_budget(cpu) == slices.memory_budget(gpu) == 25 * 2**20
    monkeypatch.setattr(model_management, "get_free_memory", lambda device: 2**40)
    assert slices.memory_budget(cpu) == 64 * 2**20
    assert slices.memory_budget(gpu) == 512 * 2**20


def test_rows_fit_the_budget(monkeypatch):
    monkeypatch.setattr(slices, "memory_budget", lambda device: 64 * 2**20)
    q = torch.empty(1, 8, 16384, 40, device="meta")
    rows = slices.rows_within_budget(q, 16384, torch.float32)
    assert rows * 8 * 16384 * 4 * slices.COPIES <= 64 * 2**20 < (rows + 1) * 8 * 16384 * 4 * slices.COPIES
    # However little there is, one row is tried.
    monkeypatch.setattr(slices, "memory_budget", lambda device: 0)
    assert slices.rows_within_budget(q, 16384, torch.float32) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(
    ("name", "tokens", "dim_head", "mask"), [("split", 16383, 64, "none"), ("sub_quad", 16384, 40, "mask")]
)
def test_16384_tokens_take_less_than_a_gibibyte(name, tokens, dim_head, mask):
    child = Path(__file__).with_name("peak_memory_child.py")
    command = [sys.executable, str(child), name, str(tokens), str(dim_head), mask]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1024
