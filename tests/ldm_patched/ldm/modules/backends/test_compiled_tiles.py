"""The compiled tiles: every size and mask, every width of registers, and machines that cannot have them."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import platform
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import compiled_tiles, cpu_tiled, registry
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import float64_attention
from .test_parity import draw_mask, full_mask

ERRORS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
CALL = registry.AttentionCall(1, 2, 2, 1024, 1024, 64, torch.float32, "cpu")
needs_compiler = pytest.mark.skipif(compiled_tiles.missing() is not None, reason=str(compiled_tiles.missing()))


def draw(b: int, h: int, n_q: int, n_k: int, d: int, d_v: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, n_q, h, d), (b, n_k, h, d), (b, n_k, h, d_v))
    return tuple(torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    bias = None if mask is None else torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    return compiled_tiles.attend(q, k, v, bias, q.shape[-1] ** -0.5 / math.log(2.0))


@needs_compiler
@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*(st.integers(1, most) for most in (2, 3, 230, 600, 100, 100))),
    st.sampled_from(list(ERRORS)),
    st.booleans(),
    st.integers(0, 999),
)
def test_every_size_and_mask(sizes: tuple[int, ...], dtype: torch.dtype, masked: bool, seed: int) -> None:
    q, k, v = draw(*sizes, dtype, seed)
    b, h, n_q, n_k = sizes[:4]
    shape = [(n_q, n_k), (b, 1, n_q, n_k), (1, h, 1, n_k), (b, h, n_q, n_k), (b, 1, 1, 1)][seed % 5]
    mask = draw_mask(shape, torch.float32, seed) if masked else None
    out = cpu_tiled.attention_cpu_tiled(q, k, v, h, mask=mask, skip_reshape=True, skip_output_reshape=True)
    seen = None if mask is None else full_mask(mask, b, h, n_q, n_k)
    assert out.dtype == dtype
    assert (out.double() - float64_attention(q, k, v, seen)).abs().max() <= ERRORS[dtype]


@needs_compiler
@pytest.mark.parametrize("dtype", list(ERRORS))
@pytest.mark.parametrize("gain", [8.0, 60.0, 400.0])
def test_large_scores_are_as_exact_as_small_ones(gain: float, dtype: torch.dtype) -> None:
    q, k, v = draw(1, 2, 130, 1024, 64, 64, dtype)
    truth = float64_attention(q * gain, k, v)
    ours, torchs = attend(q * gain, k, v), torch.nn.functional.scaled_dot_product_attention(q * gain, k, v)
    error, other = ((x.double() - truth).abs().max() for x in (ours, torchs))
    assert error <= 3.0 * other


@needs_compiler
@pytest.mark.parametrize("d", [16, 24])
def test_what_is_no_number_stays_none(d: int) -> None:
    q, k, v = draw(1, 1, 8, 300, d, d, torch.float32)
    q[0, 0, 3, 0] = math.nan
    assert attend(q, k, v)[0, 0, 3].isnan().all() and attend(q, k, v)[0, 0, 4].isfinite().all()
    v[0, 0, 299, d - 3] = math.inf
    seen = attend(q, k, v)[0, 0, 4]
    assert seen[d - 3] == math.inf and seen.isfinite().sum() == d - 1
    k[0, 0, 7, 1] = math.nan
    assert attend(q, k, v).isnan().all()


@needs_compiler
def test_a_row_without_keys_is_zero_and_the_lowest_number_for_all_changes_nothing() -> None:
    q, k, v = draw(1, 1, 4, 300, 8, 8, torch.float32)
    assert not attend(q, k, v, torch.zeros(1, 1, 4, 300, dtype=torch.bool)).any()
    lowest = torch.full((4, 300), torch.finfo(torch.float32).min)
    out = cpu_tiled.attention_cpu_tiled(q, k, v, 1, mask=lowest, skip_reshape=True, skip_output_reshape=True)
    assert (out.double() - v.double().mean(2, keepdim=True)).abs().max() < 1e-5


@needs_compiler
def test_rows_that_are_not_dense() -> None:
    q, k, v = draw(2, 2, 40, 50, 12, 12, torch.float32)
    strided = [torch.stack([x, x], -1)[..., 0] for x in (q, k, v)]
    assert torch.equal(attend(*strided), attend(q, k, v))


@needs_compiler
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86")
@pytest.mark.parametrize("less", [("-mno-avx512f",), ("-mno-avx512f", "-mno-avx2", "-mno-fma")], ids=["avx2", "sse"])
def test_narrower_registers(less: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    library = ctypes.CDLL(str(compiled_tiles.built(["c++"], (*compiled_tiles.FLAGS, *less))))
    monkeypatch.setattr(compiled_tiles, "_library", lambda: library)
    for dtype, error in ERRORS.items():
        for sizes in ((2, 3, 100, 333, 40, 40), (1, 1, 7, 5, 3, 130)):
            q, k, v = draw(*sizes, dtype)
            assert (attend(q, k, v).double() - float64_attention(q, k, v)).abs().max() <= error


# Machines without


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give this test a cache of its own, and forget what the process has loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled_tiles, "_library", compiled_tiles._library.__wrapped__)
    monkeypatch.setattr(cpu_tiled, "_quicker", cpu_tiled._quicker.__wrapped__)
    return tmp_path / "attention_patchbay"


def test_without_a_compiler_float32_is_refused_and_bfloat16_is_eager(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    selection = registry.select(CALL, "cpu_tiled")
    assert selection.backend.name == "pytorch"
    assert "C++ compiler" in selection.skipped[0][1][0] and "CXX" in selection.skipped[0][1][0]
    assert registry.select(dataclasses.replace(CALL, dtype=torch.bfloat16)).backend.name == "cpu_tiled"
    q, k, v = draw(1, 2, 70, 600, 8, 8, torch.bfloat16)
    out = cpu_tiled.attention_cpu_tiled(q, k, v, 2, skip_reshape=True, skip_output_reshape=True)
    assert (out.double() - float64_attention(q, k, v)).abs().max() <= 3e-2
    with pytest.raises(compiled_tiles.NoCompilerError, match="CXX"):
        compiled_tiles.attend(q, k, v, None, 1.0)
    assert not fresh.exists()


def test_a_compiler_that_fails_is_named_with_what_it_said(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = fresh.parent / "broken"
    broken.write_text("#!/bin/sh\necho cannot find Parallel.h >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert compiled_tiles.missing() == f"could not be compiled by {broken}: cannot find Parallel.h"
    assert list(fresh.iterdir()) == []


@needs_compiler
@pytest.mark.parametrize("quicker", ["compiled", "eager"])
def test_what_takes_less_time_runs_in_bfloat16_and_is_kept(
    fresh: Path, quicker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"compiled": 2.0, "eager": 2.0, quicker: 1.0}
    monkeypatch.setattr(cpu_tiled, "_seconds", lambda: measured)
    assert cpu_tiled._compiled() is (quicker == "compiled")
    (kept,) = fresh.glob("*.json")
    assert json.loads(kept.read_text()) == measured
    monkeypatch.setattr(cpu_tiled, "_seconds", lambda: pytest.fail("is measured again"))
    assert cpu_tiled._compiled() is (quicker == "compiled")
    assert len(list(fresh.iterdir())) == 2  # the library and what was measured


@needs_compiler
@pytest.mark.parametrize("text", ["", "{}", "[]", "5", "null", '{"compiled": 1.0}', '{"compiled": "x", "eager": null}'])
def test_times_that_are_not_what_was_kept_are_measured_again(
    fresh: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_tiled, "_seconds", lambda: {"compiled": 1.0, "eager": 2.0})
    assert cpu_tiled._compiled()
    (kept,) = fresh.glob("*.json")
    whole = kept.read_text()
    kept.write_text(text)
    assert cpu_tiled._compiled() and kept.read_text() == whole


@needs_compiler
def test_times_that_are_nearly_the_same_are_not_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_tiled, "_seconds", lambda: {"compiled": 1.0, "eager": 1.05})
    assert cpu_tiled._compiled() and not list(fresh.glob("*.json"))


@needs_compiler
def test_what_cannot_be_kept_is_measured_each_time(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_tiled, "_seconds", lambda: {"compiled": 1.0, "eager": 2.0})
    assert compiled_tiles.missing() is None

    def closed(*args: object) -> None:
        raise PermissionError("closed")

    monkeypatch.setattr(compiled_tiles, "_write", closed)
    assert cpu_tiled._compiled() and not list(fresh.glob("*.json"))


@needs_compiler
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.999])
def test_a_library_that_was_cut_is_compiled_anew(fresh: Path, part: float) -> None:
    path = compiled_tiles.built(["c++"], compiled_tiles.FLAGS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    assert compiled_tiles.missing() is None and path.stat().st_size == len(whole)


@needs_compiler
def test_a_compiler_with_options(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "c++ -O2")
    assert compiled_tiles.missing() is None
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert "CXX=no-such-compiler -O2 is none" in str(compiled_tiles.missing())


@needs_compiler
def test_a_cache_that_cannot_be_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.write_text("a file")
    assert f"could not be kept in {fresh}" in str(compiled_tiles.missing())
    assert "XDG_CACHE_HOME" in str(compiled_tiles.missing())


@needs_compiler
@pytest.mark.parametrize("quicker", ["compiled", "sdpa"])
def test_what_takes_less_time_in_float32_is_measured_and_kept(
    fresh: Path, quicker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_tiled, "_quicker_than_sdpa", cpu_tiled._quicker_than_sdpa.__wrapped__)
    assert all(0.0 < taken < 60.0 for taken in cpu_tiled._seconds_float32().values())
    monkeypatch.setattr(cpu_tiled, "_seconds_float32", lambda: {"compiled": 2.0, "sdpa": 2.0, quicker: 1.0})
    assert cpu_tiled._quicker_than_sdpa() is (quicker == "compiled")
    assert len(list(fresh.glob("*.float32.json"))) == 1
    monkeypatch.setattr(cpu_tiled, "_seconds_float32", lambda: pytest.fail("is measured again"))
    assert cpu_tiled._quicker_than_sdpa() is (quicker == "compiled")


def test_torchs_compiler_gets_the_eager_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not cpu_tiled._compiled()
    assert "torch.compile" in registry.select(CALL, "cpu_tiled").skipped[0][1][0]


@needs_compiler
def test_float32_scores_can_be_asked_for() -> None:
    asked = dataclasses.replace(CALL, precision=torch.float32)
    assert registry.select(asked, "cpu_tiled").backend.name == "cpu_tiled"
    half = dataclasses.replace(asked, dtype=torch.bfloat16)  # its weights are rounded
    assert registry.select(half, "cpu_tiled").skipped[0][1] == ("takes no float32 scores",)
    grad = dataclasses.replace(CALL, grad=True)
    assert registry.select(grad, "cpu_tiled").skipped[0][1] == ("computes no gradients",)
