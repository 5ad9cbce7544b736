"""Scaling of whole blocks: FreeU against its published formulas, free factors, the schedule, what stays untouched."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.listed import lists
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.free_u import FreeU, hidden_mean, scale_low_frequencies, widest
from attention_patchbay.ldm_patched.patches.reading import report
from hypothesis import given, settings
from hypothesis import strategies as st

from .models import STEPS, draw, last_run, patcher, run, unchanged

HALF = Schedule(curve="0:0.5, 1:0.5")


def fourier_filter(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Scale two by two frequencies about the middle of the shifted spectrum, in float64."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(x.double()), dim=(-2, -1))
    row, column = x.shape[-2] // 2, x.shape[-1] // 2
    spectrum[..., row - 1 : row + 1, column - 1 : column + 1] *= factor
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real


@settings(max_examples=30)
@given(st.integers(2, 17), st.integers(2, 17), st.floats(0, 4))
def test_the_skip_filter_is_the_fourier_filter(height: int, width: int, factor: float) -> None:
    x = draw(height, 2, 3, height, width)
    assert (scale_low_frequencies(x, factor).double() - fourier_filter(x, factor)).abs().max() < 2e-5


def test_the_skip_filter_keeps_a_small_dtype() -> None:
    x = draw(0, 1, 3, 8, 8).bfloat16()
    out = scale_low_frequencies(x, 0.2)
    assert out.dtype == x.dtype and (out - fourier_filter(x, 0.2)).abs().max() < 0.05


def by_hand(h: torch.Tensor, skip: torch.Tensor, b: float, s: float, version: int) -> tuple[torch.Tensor, torch.Tensor]:
    out = h.double().clone()
    for row in range(len(h)):
        mean = out[row].mean(0)
        stretched = (mean - mean.min()) / (mean.max() - mean.min())
        for channel in range(h.shape[1] // 2):
            out[row, channel] *= b if version == 1 else (b - 1) * stretched + 1
    return out, fourier_filter(skip, s)


def hook(model: Any, slot: str = "output_block_patch") -> Any:
    return lists(model.model_options["transformer_options"])[slot][0]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("channels", "b", "s"), [(64, 1.3, 0.9), (32, 1.4, 0.2)], ids=["widest", "second"])
def test_freeu_is_the_formula_on_its_level(version: int, channels: int, b: float, s: float) -> None:
    h, skip = draw(0, 2, channels, 6, 8), draw(1, 2, 32, 6, 8)
    before = h.clone()
    out = hook(attach(patcher(), FreeU(version=version)))(h, skip, {"block": ("output", 0)})
    for mine, expected in zip(out, by_hand(h, skip, b, s, version), strict=True):
        assert (mine.double() - expected).abs().max() < 1e-5
    assert torch.equal(h, before)


def test_freeu_leaves_other_levels_and_other_blocks_alone() -> None:
    assert widest(patcher().model.diffusion_model) == (64, 32)
    h, skip = draw(0, 1, 48, 8, 8), draw(1, 1, 32, 8, 8)
    for height, options in ((48, {"block": ("output", 0)}), (32, {"block": ("output", 2)})):
        out = hook(attach(patcher(), FreeU(where=Where(parse("output:0-1")))))(h[:, :height], skip, options)
        assert torch.equal(out[0], h[:, :height]) and out[1] is skip


def test_a_flat_backbone_is_no_division_by_zero() -> None:
    assert torch.equal(hidden_mean(torch.ones(2, 4, 3, 3)), torch.zeros(2, 1, 3, 3))


def test_the_scale_of_each_room_is_the_product() -> None:
    options = {"block": ("output", 1)}
    scaled = attach(patcher(), BlockScale(1.5, 0.25, where=Where(parse("input:2, middle, output:1"))))
    h, skip = draw(0, 1, 8, 4, 4), draw(1, 1, 8, 4, 4)
    out = hook(scaled)(h, skip, options)
    assert torch.equal(out[0], h * 1.5) and torch.equal(out[1], skip * 0.25)
    assert torch.equal(hook(scaled, "input_block_patch")(h, {"block": ("input", 2)}), h * 1.5)
    args = {"h": h, "x": skip, "transformer_options": {"block": ("middle", 0)}}
    after = hook(scaled, "middle_block_after_patch")(args)
    assert torch.equal(after["h"], h * 1.5) and after["x"] is skip
    assert hook(scaled, "input_block_patch")(h, {"block": ("input", 3)}) is h


@pytest.mark.parametrize("method", [FreeU(), BlockScale(1.2, 0.7)], ids=["freeu", "scale"])
def test_neutral_is_bit_equal_and_the_input_model_is_left_alone(method: Any) -> None:
    model = patcher()
    base = run(model)
    neutral = FreeU(1, 1, 1, 1) if isinstance(method, FreeU) else BlockScale(1.0)
    with unchanged(model):
        scaled = attach(model, method)
        changed = run(scaled)
        assert torch.equal(run(attach(model, neutral)), base)
        assert torch.equal(run(attach(model, type(method)(strength=0.0))), base)
    assert torch.equal(run(model), base) and not torch.allclose(changed, base, atol=1e-2)
    assert torch.equal(run(scaled), changed) and torch.equal(run(scaled.clone()), changed)


def test_the_curve_blends_the_factors_and_the_window_closes() -> None:
    half = run(attach(patcher(), FreeU(1.4, 1.6, 0.5, 0.2, where=Where(parse("output"), HALF))))
    assert torch.allclose(half, run(attach(patcher(), FreeU(1.2, 1.3, 0.75, 0.6))), atol=1e-5)
    assert torch.allclose(half, run(attach(patcher(), FreeU(1.4, 1.6, 0.5, 0.2, strength=0.5))), atol=1e-5)
    half = run(attach(patcher(), BlockScale(1.4, 0.6, where=Where(parse("output"), HALF))))
    assert torch.allclose(half, run(attach(patcher(), BlockScale(1.2, 0.8))), atol=1e-5)
    never = attach(patcher(), BlockScale(2.0, where=Where(parse("output"), Schedule(0.0, 0.0))))
    assert torch.equal(run(never), run(patcher()))
    assert "never ran, no step of the run lay in its window" in report.text(last_run(never))


def test_factors_on_one_block_multiply_in_any_order() -> None:
    first, second = BlockScale(1.5, 0.5), BlockScale(0.8, 1.2, where=Where(parse("output:1")))
    both = BlockScale(1.5 * 0.8, 0.5 * 1.2, where=Where(parse("output:1")))
    rest = BlockScale(1.5, 0.5, where=Where(parse("output, !output:1")))
    expected = run(attach(attach(patcher(), both), rest))
    for order in ([first, second], [second, first]):
        model = patcher()
        for method in order:
            model = attach(model, method)
        assert torch.allclose(run(model), expected, atol=1e-5 * float(expected.abs().max()))


def test_freeu_and_a_scale_run_in_the_order_of_the_graph() -> None:
    h, skip = draw(0, 1, 64, 8, 8), draw(1, 1, 64, 8, 8)
    options = {"block": ("output", 0)}
    freeu, scale = FreeU(version=1), BlockScale(1.5, 0.5)
    for order in ([freeu, scale], [scale, freeu]):
        out: tuple[torch.Tensor, torch.Tensor] = (h, skip)
        model = attach(attach(patcher(), order[0]), order[1])
        for patch in lists(model.model_options["transformer_options"])["output_block_patch"]:
            out = patch(*out, options)
        backbone, low = by_hand(h, skip, 1.3, 0.9, 1)
        assert (out[0].double() - 1.5 * backbone).abs().max() < 1e-5
        assert (out[1].double() - 0.5 * low).abs().max() < 1e-5


def test_the_report_counts_uses_by_block() -> None:
    model = attach(
        attach(patcher(), FreeU(where=Where(parse("output:0-1")))), BlockScale(1.1, where=Where(parse("i2, m")))
    )
    run(model)
    text = report.text(last_run(model))
    assert f"FreeU 2 b 1.3 1.4 s 0.9 0.2 on output:0-1: ran {2 * STEPS} times in 2 of 2 blocks" in text
    assert f"scale backbone 1.1 skip 1 on input:2, middle: ran {2 * STEPS} times in 2 of 2 blocks" in text


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="b2 is nan"):
        FreeU(b2=math.nan)
    with pytest.raises(ValueError, match="strength is 2"):
        BlockScale(strength=2)
    with pytest.raises(ValueError, match="version is 3; choose 1 or 2"):
        FreeU(version=3)
    for address in ("all", "middle, output:1", "!output:3"):
        with pytest.raises(ValueError, match="FreeU works on output blocks"):
            FreeU(where=Where(parse(address)))
    with pytest.raises(ValueError, match="says self, but this is for whole blocks"):
        BlockScale(where=Where(parse("output self")))
    with pytest.raises(AddressError, match="no block 'output:9'"):
        attach(patcher(), FreeU(where=Where(parse("output:9"))))
