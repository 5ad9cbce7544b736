"""Downsampling of keys and values: the formula, its place among other layers, and what stays untouched."""

from __future__ import annotations

import pickle

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.reading import report
from torch import Tensor

from .layers import layers, near, options, plain, tokens
from .models import STEPS, last_run, patcher, run, unchanged
from .test_token_merging import by_hand as merged_by_hand
from .test_token_merging import top_left


def cells(grid: tuple[int, int], factor: int) -> list[list[int]]:
    """Return the tokens of each cell, its top left first."""
    return [
        [
            i * grid[1] + j
            for i in range(top, min(top + factor, grid[0]))
            for j in range(left, min(left + factor, grid[1]))
        ]
        for top in range(0, grid[0], factor)
        for left in range(0, grid[1], factor)
    ]


def nearest_by_hand(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    first = [cell[0] for cell in cells(grid, factor)]
    return plain(q, k[:, first], v[:, first])


def mean_by_hand(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    smaller = [torch.stack([x[:, cell].double().mean(1) for cell in cells(grid, factor)], 1) for x in (k, v)]
    return plain(q, *smaller)


FORMULAS = {"nearest": nearest_by_hand, "mean": mean_by_hand}


@pytest.mark.parametrize("method", FORMULAS)
@pytest.mark.parametrize(("height", "width", "factor"), [(6, 8, 2), (5, 7, 2), (8, 9, 4), (3, 3, 3)])
def test_it_is_attention_to_a_smaller_picture(method: str, height: int, width: int, factor: int) -> None:
    q, k, v = tokens(height, width)
    out = layers(KeyValueDownsampling(factor, method))(q, k, v, options(height, width))
    assert near(out, FORMULAS[method](q, k, v, (height, width), factor))


def test_merging_inside_merges_the_queries() -> None:
    q, k, v = tokens(6, 8)
    out = layers(TokenMerging(0.5, "top-left"), KeyValueDownsampling(2))(q, k, v, options(6, 8))
    queries = merged_by_hand(q, q, q, top_left(6, 8), 24, lambda q, *_: q)  # the merged queries, copied back
    assert near(out, nearest_by_hand(queries, k, v, (6, 8), 2))


def test_a_layer_inside_that_needs_what_was_cut_is_refused_with_the_way_out() -> None:
    q, k, v = tokens(6, 8)
    half = AttentionPatch("attn1.out", "identity", strength=0.5)
    with pytest.raises(ValueError, match="48.*queries.*12.*values"):
        layers(half, KeyValueDownsampling(2))(q, k, v, options(6, 8))
    with pytest.raises(ValueError, match="24 tokens are no 6x8 picture.*put this one after the other"):
        layers(KeyValueDownsampling(2), TokenMerging(0.5))(q, k, v, options(6, 8))
    outside = layers(KeyValueDownsampling(2), half)(q, k, v, options(6, 8))
    assert near(outside, 0.5 * nearest_by_hand(q, k, v, (6, 8), 2) + 0.5 * v)


def test_factor_1_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        changed = run(attach(model, KeyValueDownsampling(2)))
        assert torch.equal(run(attach(model, KeyValueDownsampling(1))), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    value = KeyValueDownsampling(4, "mean", Where(parse("middle")))
    assert pickle.loads(pickle.dumps(value)) == value


def test_the_curve_scales_the_factor_inside_the_window() -> None:
    half = run(attach(patcher(), KeyValueDownsampling(4, where=Where(schedule=Schedule(curve="0:0.5, 1:0.5")))))
    assert torch.equal(half, run(attach(patcher(), KeyValueDownsampling(2, where=Where()))))
    model = attach(patcher(), KeyValueDownsampling(8, where=Where(parse("input"), Schedule(0.0, 0.5))))
    run(model)
    text = report.text(last_run(model))
    assert f"ran {STEPS // 2} times in 1 of 3 blocks; never in input:3, input:3.1 (too few tokens" in text


def test_guidance_on_the_same_block_works_in_both_orders() -> None:
    guidance, smaller = (
        PerturbedGuidance(scale=2.0, where=Where(parse("input:1"))),
        KeyValueDownsampling(where=Where(parse("input:1"))),
    )
    first = run(attach(attach(patcher(), guidance), smaller))
    second = run(attach(attach(patcher(), smaller), guidance))
    assert torch.equal(first, second)  # the weak layer of the extra call is the outermost in both
    assert not torch.equal(first, run(attach(patcher(), guidance)))


def test_wrong_settings_are_refused() -> None:
    for factor in (0, 1.5):
        with pytest.raises(ValueError, match=f"factor is {factor}"):
            KeyValueDownsampling(factor)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown method 'bicubic'"):
        KeyValueDownsampling(2, "bicubic")
    with pytest.raises(ValueError, match="says cross, but this is for self-attention"):
        KeyValueDownsampling(where=Where(parse("all cross")))
