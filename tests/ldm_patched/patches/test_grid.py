from __future__ import annotations

import math

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.grid import touched
from attention_patchbay.ldm_patched.patches.engine.site import Site

from ...unets import draw

VIDEO = {"activations_shape": [6, 4, 8, 10]}  # two videos of three frames


def test_a_layer_gets_the_picture_or_one_tile_of_it() -> None:
    assert Site(VIDEO, batch=6, tokens=80).area == (8, 10)
    assert Site(VIDEO, batch=24, tokens=20, piece=(4, 5)).area == (4, 5)


def test_attention_over_time_has_no_grid() -> None:
    assert Site(VIDEO, batch=160, tokens=3).area is None


@pytest.mark.parametrize("piece", [None, (4, 5)])
def test_cut_tokens_are_refused_with_the_way_out(piece: tuple[int, int] | None) -> None:
    with pytest.raises(ValueError, match="10 tokens are no 8x10 picture.*put this one after the other"):
        Site(VIDEO, batch=24, tokens=10, piece=piece).area  # noqa: B018


@pytest.mark.parametrize("grid", [(4, 3), (5, 4), (2, 7), (12, 10)])
def test_a_token_is_touched_by_the_highest_of_all_pixels_that_it_lies_on(grid: tuple[int, int]) -> None:
    mask = draw(0, 2, 8, 6)
    found = touched(mask, grid).unflatten(1, grid)
    for y in range(grid[0]):
        for x in range(grid[1]):
            rows, columns = (
                slice(math.floor(place * pixels / tokens), math.ceil((place + 1) * pixels / tokens))
                for place, pixels, tokens in ((y, 8, grid[0]), (x, 6, grid[1]))
            )
            assert torch.equal(found[:, y, x], mask[:, rows, columns].amax(dim=(1, 2)))
