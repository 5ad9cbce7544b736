"""Attention in tiles of torch's operations: every split into tiles and groups of heads, large scores, and masks."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import cpu_tiled, eager_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import float64_attention
from .test_parity import draw_mask, full_mask, inputs

ERROR = 3e-2


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_tiled, "_missing", lambda: "are not here")


def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **kwargs: object) -> torch.Tensor:
    function = cpu_tiled.attention_cpu_bf16 if q.dtype is torch.float32 else cpu_tiled.attention_cpu_tiled
    return function(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True, **kwargs)


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager_tiles, "cache_bytes", lambda: 2048)


@pytest.mark.usefixtures("small_cache")
@settings(max_examples=80)
@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 200), st.integers(1, 700), st.booleans(), st.integers(0, 999)
)
def test_every_split_into_tiles_is_exact(b: int, h: int, n_q: int, n_k: int, masked: bool, seed: int) -> None:
    q, k, v = inputs(b, h, 8, n_q, n_k, torch.bfloat16, seed=seed)
    shape = [(n_q, n_k), (b, 1, n_q, n_k), (1, h, 1, n_k), (b, h, n_q, n_k)][seed % 4]
    mask = draw_mask(shape, torch.bfloat16, seed) if masked else None
    seen = None if mask is None else full_mask(mask, b, h, n_q, n_k)
    out = run(q, k, v, mask=mask)
    assert (out.double() - float64_attention(q, k, v, seen)).abs().max() <= ERROR


def against_the_fused_kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> float:
    """Return the largest error as a multiple of that of torch's own kernel."""
    truth, fused = float64_attention(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v)
    ours, theirs = ((x.double() - truth).abs().max() for x in (run(q, k, v), fused))
    return float(ours / theirs)


@pytest.mark.parametrize("gain", [1.0, 8.0, 60.0, 400.0])
def test_large_scores_are_as_exact_as_small_ones(gain: float) -> None:
    q, k, v = inputs(1, 2, 64, 130, 1024, torch.bfloat16)
    assert against_the_fused_kernel(q * gain, k, v) < 3.0


def test_one_key_far_above_those_that_are_looked_at() -> None:
    q, k, v = inputs(1, 1, 64, 64, 1024, torch.bfloat16)
    k[..., 5, :] = q.mean(2) * 30.0  # 5 is no multiple of the stride
    assert eager_tiles._bounds(q[0], k[0], 64**-0.5 * cpu_tiled.LOG2_E)[0] < eager_tiles.SAFE
    assert against_the_fused_kernel(q, k, v) < 3.0


def test_a_negative_scale() -> None:
    q, k, v = inputs(1, 2, 8, 70, 600, torch.bfloat16)
    assert (run(q, k, v, scale=-0.5).double() - float64_attention(q, k, v, scale=-0.5)).abs().max() <= ERROR


def test_the_lowest_number_for_every_key_changes_nothing() -> None:
    q, k, v = inputs(1, 1, 8, 4, 700, torch.bfloat16)
    mask = torch.full((4, 700), torch.finfo(torch.bfloat16).min)
    assert (run(q, k, v, mask=mask).double() - float64_attention(q, k, v)).abs().max() <= ERROR


def test_float32_comes_back_in_float32() -> None:
    q, k, v = inputs(2, 2, 8, 65, 600)
    out = run(q, k, v)
    assert out.dtype == torch.float32 and (out.double() - float64_attention(q, k, v)).abs().max() <= ERROR


def test_the_cache_has_a_default(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    eager_tiles.cache_bytes.cache_clear()
    monkeypatch.setattr(eager_tiles, "CACHE", tmp_path / "size")  # type: ignore[operator]
    assert eager_tiles.cache_bytes() == 1024 * 1024
    eager_tiles.cache_bytes.cache_clear()
    (tmp_path / "size").write_text("512K\n")  # type: ignore[operator]
    assert eager_tiles.cache_bytes() == 512 * 1024
    eager_tiles.cache_bytes.cache_clear()
