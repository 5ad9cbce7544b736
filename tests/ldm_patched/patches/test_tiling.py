"""Tiled self-attention: the formula, its draws, its place among other layers, and what stays untouched."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention, bands, cut, join, tile_count
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.reading import report
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from .layers import layers, near, options, plain, tokens
from .models import STEPS, draw, last_run, patcher, run, unchanged
from .test_downsampling import nearest_by_hand
from .test_token_merging import at_step, top_left
from .test_token_merging import by_hand as merged_by_hand

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
TILES = TiledAttention(24, 1)  # three tokens


def edges(size: int, count: int) -> list[int]:
    """Return where the tiles of a side begin, and its end; the larger tiles come first."""
    places = [0]
    for i in range(count):
        places.append(places[-1] + size // count + (i < size % count))
    return places


def by_hand(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], counts: tuple[int, int], attend: Attend) -> Tensor:
    """Attend tile by tile; `attend` gets the tokens of one tile."""
    out = torch.full(v.shape, torch.nan, dtype=torch.float64)
    rows, columns = edges(grid[0], counts[0]), edges(grid[1], counts[1])
    for top, bottom in zip(rows, rows[1:], strict=False):
        for left, right in zip(columns, columns[1:], strict=False):
            tile = [i * grid[1] + j for i in range(top, bottom) for j in range(left, right)]
            out[:, tile] = attend(q[:, tile], k[:, tile], v[:, tile]).double()
    return out


@pytest.mark.parametrize(
    ("height", "width", "counts"), [(6, 9, (2, 3)), (7, 8, (2, 2)), (3, 11, (1, 3)), (13, 2, (4, 1))]
)
def test_it_is_attention_of_each_tile_also_where_the_number_of_tiles_does_not_divide(
    height: int, width: int, counts: tuple[int, int]
) -> None:
    q, k, v = tokens(height, width)
    out = layers(TILES)(q, k, v, options(height, width))
    assert near(out, by_hand(q, k, v, (height, width), counts, plain))


def test_a_picture_of_less_than_two_tiles_stays_whole() -> None:
    q, k, v = tokens(5, 5)
    assert torch.equal(layers(TILES)(q, k, v, options(5, 5)), plain(q, k, v).to(q.dtype))


def test_tiles_have_as_many_tokens_in_deeper_blocks() -> None:
    q, k, v = tokens(6, 6)
    assert torch.equal(layers(TILES)(q, k, v, options(6, 6, latent=2)), layers(TILES)(q, k, v, options(6, 6)))


@given(st.integers(1, 20), st.integers(1, 20))
def test_bands_cover_a_side_with_tiles_that_differ_by_one(size: int, count: int) -> None:
    count = min(size, count)
    parts = bands(size, count)
    places = [place for part, _ in parts for place in range(part.start, part.stop)]
    assert places == list(range(size)) and sum(tiles for _, tiles in parts) == count
    sizes = [(part.stop - part.start) / tiles for part, tiles in parts]
    assert all(side.is_integer() for side in sizes) and max(sizes) - min(sizes) <= 1


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_joining_undoes_cutting(rows: int, columns: int, height: int, width: int) -> None:
    x = draw(0, 2, rows * height, columns * width, 3)
    tiles = cut(x, rows, columns)
    assert torch.equal(tiles[columns + 1 if rows > 1 < columns else 0].flatten(), tiles_at(x, rows, columns).flatten())
    assert torch.equal(join(tiles, rows, columns, (height, width)), x)


def tiles_at(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return the tile in the second row and column of the first picture; the first one where there is none."""
    height, width = x.shape[1] // rows, x.shape[2] // columns
    at = 1 if rows > 1 < columns else 0
    return x[0, at * height : (at + 1) * height, at * width : (at + 1) * width]


def test_the_number_of_tiles_is_drawn_from_the_largest_and_those_below() -> None:
    drawn = Counter(tile_count(12, 3, 2, torch.Generator().manual_seed(seed)) for seed in range(100))
    assert set(drawn) == {4, 3} and min(drawn.values()) > 25
    assert set(tile_count(12, 3, 9, torch.Generator().manual_seed(seed)) for seed in range(100)) == {1, 2, 3, 4}
    assert tile_count(12, 3, 1, None) == 4 and tile_count(2, 3, 5, None) == 1


def test_draws_differ_by_step_and_are_the_same_in_each_run() -> None:
    q, k, v = tokens(12, 12)
    method = layers(TiledAttention(24, 3))
    outs = [[method(q, k, v, options(12, 12) | at_step(number)) for number in range(4)] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))
    assert len({float(out.sum()) for out in outs[0]}) > 1


def test_merging_inside_a_tile_is_merging_of_its_tokens() -> None:
    q, k, v = tokens(6, 8)
    out = layers(TokenMerging(0.5, "top-left"), TiledAttention(24, 1))(q, k, v, options(6, 8))

    def merged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return merged_by_hand(q, k, v, top_left(3, 4), 6)

    assert near(out, by_hand(q, k, v, (6, 8), (2, 2), merged))


def test_downsampling_and_an_identity_matrix_inside_a_tile_work_on_its_tokens() -> None:
    q, k, v = tokens(6, 8)
    out = layers(KeyValueDownsampling(2), TILES)(q, k, v, options(6, 8))
    smaller = by_hand(q, k, v, (6, 8), (2, 2), lambda q, k, v: nearest_by_hand(q, k, v, (3, 4), 2))
    assert near(out, smaller)
    half = AttentionPatch("attn1.out", "identity", strength=0.5)
    both = [layers(half, TILES), layers(TILES, half)]  # inside and outside are the same
    for method in both:
        expected = 0.5 * by_hand(q, k, v, (6, 8), (2, 2), plain) + 0.5 * v
        assert near(method(q, k, v, options(6, 8)), expected)


def test_tiles_inside_tiles_cut_them_again() -> None:
    q, k, v = tokens(8, 8)
    out = layers(TiledAttention(16, 1), TiledAttention(32, 1))(q, k, v, options(8, 8))
    assert near(out, by_hand(q, k, v, (8, 8), (4, 4), plain))


@pytest.mark.parametrize("outer", [TokenMerging(0.5), KeyValueDownsampling(2)], ids=lambda method: method.name)
def test_tiles_inside_a_layer_that_changes_the_tokens_are_refused_with_the_way_out(outer: Any) -> None:
    q, k, v = tokens(6, 8)
    with pytest.raises(ValueError, match="put this (node behind|one after)"):
        layers(TILES, outer)(q, k, v, options(6, 8))


def test_tile_size_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        changed = run(attach(model, TILES))
        assert torch.equal(run(attach(model, TiledAttention(0))), base)
        assert torch.equal(run(attach(model, TiledAttention(256))), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    assert pickle.loads(pickle.dumps(TILES)) == TILES


def test_the_curve_widens_the_tiles_inside_the_window() -> None:
    half = run(attach(patcher(), TiledAttention(16, 1, where=Where(schedule=Schedule(curve="0:0.5, 1:0.5")))))
    assert torch.equal(half, run(attach(patcher(), TiledAttention(32, 1))))
    model = attach(patcher(), TiledAttention(24, 1, Where(parse("input"), Schedule(0.0, 0.5))))
    run(model)
    text = report.text(last_run(model))
    # two tiles of 4 tokens in input:1; the 4x4 tokens of input:3 are one tile
    assert f"ran {STEPS // 2} times in 1 of 3 blocks; never in input:3, input:3.1 (the picture is one tile" in text


def test_guidance_on_the_same_block_works_in_both_orders() -> None:
    guidance, tiling = (
        PerturbedGuidance(scale=2.0, where=Where(parse("input:1"))),
        TiledAttention(32, 1, Where(parse("input:1"))),
    )
    first = run(attach(attach(patcher(), guidance), tiling))
    second = run(attach(attach(patcher(), tiling), guidance))
    assert torch.equal(first, second)  # the weak layer of the extra call is the outermost in both
    assert not torch.equal(first, run(attach(patcher(), guidance)))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="tile_size is 5; give 0 for no tiles"):
        TiledAttention(5)
    with pytest.raises(ValueError, match="swap is 0"):
        TiledAttention(swap=0)
    with pytest.raises(ValueError, match="says cross, but this is for self-attention"):
        TiledAttention(where=Where(parse("all cross")))
