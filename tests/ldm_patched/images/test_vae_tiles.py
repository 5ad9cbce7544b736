"""Tiles: no seams where there is nothing to see from, and sizes that cannot work."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.images.vae_tiles import averaged_tiles, tiled

from ..tiny import draw


@pytest.mark.parametrize(("height", "width"), [(8, 8), (20, 32), (64, 8), (13 * 2, 33 * 2)])
@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_tiles_of_a_pointwise_function_have_no_seams(height: int, width: int, scale: float) -> None:
    x, seen = draw(0, 2, 3, height, width), []

    def function(part: torch.Tensor) -> torch.Tensor:
        seen.append(part.shape[2:])
        return torch.nn.functional.interpolate(part, scale_factor=scale, mode="nearest")[:, :2] * 2

    whole = function(x)
    torch.testing.assert_close(tiled(x, function, (16, 8), 4, scale), whole)
    torch.testing.assert_close(averaged_tiles(x, function, 12, 4, scale), whole)
    assert all(h <= 24 and w <= 24 for h, w in seen[1:])


def test_neighbours_fade_into_each_other() -> None:
    values = iter((0.0, 1.0))
    out = tiled(torch.zeros(1, 1, 8, 12), lambda part: torch.full_like(part, next(values)), (8, 8), 4, 1)
    assert out[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_tiles_no_larger_than_their_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8\) are too small for an overlap of 8"):
        tiled(draw(0, 1, 1, 16, 8), lambda part: part, (8, 8), 8, 1)
    assert tiled(draw(0, 1, 1, 8, 8), lambda part: part, (8, 8), 8, 1).shape == (1, 1, 8, 8)
