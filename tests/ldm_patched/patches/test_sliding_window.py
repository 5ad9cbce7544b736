"""Self-attention in windows: the windows, the average, and the whole as the limit."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import merged, split
from attention_patchbay.ldm_patched.patches.methods.sliding_window_guidance import SlidingWindowGuidance, windows
from hypothesis import given
from hypothesis import strategies as st

from .models import draw, patcher, run
from .test_guidance import attend


@given(st.integers(1, 200), st.floats(0.01, 1.0), st.floats(0.0, 0.95))
def test_the_windows_cover_the_side_and_overlap(length: int, size: float, overlap: float) -> None:
    found = windows(length, size, overlap)
    side = found[0].stop
    assert found[0].start == 0 and found[-1].stop == length
    assert all(one.stop - one.start == side for one in found)
    for one, other in zip(found, found[1:], strict=False):
        assert one.start < other.start <= one.start + max(1, int(side * (1 - overlap)))


def test_the_result_is_the_average_over_the_windows() -> None:
    q, k, v = draw(0, 2, 5 * 6, 8), draw(1, 2, 5 * 6, 8), draw(2, 2, 5 * 6, 8)

    def inner(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: Site, /) -> torch.Tensor:
        return split(attend(merged(q), merged(k), merged(v), 2).float(), 2)

    site = Site({"activations_shape": [2, 8, 5, 6]}, batch=2, tokens=5 * 6)
    method = SlidingWindowGuidance(size=0.5, overlap=0.3)
    out = merged(method.weak_attend(site, split(q, 2), split(k, 2), split(v, 2), inner))
    total, times = torch.zeros(2, 30, 8, dtype=torch.float64), torch.zeros(30)
    for rows in windows(5, 0.5, 0.3):
        for columns in windows(6, 0.5, 0.3):
            some = [6 * y + x for y in range(rows.start, rows.stop) for x in range(columns.start, columns.stop)]
            total[:, some] += attend(q[:, some], k[:, some], v[:, some], 2)
            times[some] += 1
    assert times.min() >= 1 and (out - total / times[:, None]).abs().max() < 1e-5


def test_a_window_of_the_whole_picture_guides_nowhere() -> None:
    base = run(patcher())
    whole = run(attach(patcher(), SlidingWindowGuidance(scale=3.0, where=Where(parse("middle, input:3")), size=1.0)))
    half = run(attach(patcher(), SlidingWindowGuidance(scale=3.0, where=Where(parse("middle, input:3")), size=0.5)))
    assert (whole - base).abs().max() < 1e-5 * base.abs().max()
    assert (half - base).abs().max() > 1e-3 * base.abs().max()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"size": 0.0}, "size is 0"), ({"size": 1.5}, "size"), ({"overlap": 1.0}, "overlap is 1")],
)
def test_wrong_settings_are_refused(settings: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SlidingWindowGuidance(**settings)
