"""Token merging: the formula, its draws, its place among other layers, and what stays untouched."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging, draw_cells, match, merge, unmerge
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.plan import KEY
from attention_patchbay.ldm_patched.patches.record.run import Run
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from .layers import layers, near, options, plain, step, tokens
from .models import STEPS, draw, last_run, patcher, run, unchanged

TOP_LEFT = TokenMerging(0.5, "top-left")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
INPUT = Where(parse("input:1"))


def at_step(number: int) -> dict[str, Any]:
    """Return the options of a step of a run of its own."""
    return {KEY: Run(), **step(number)}


def groups_by_hand(q: Tensor, destinations: list[int], count: int) -> list[list[int]]:
    """Return which tokens of q (n, c) become one, by the paper's words."""
    q = q.double()
    best = []
    for source in sorted(set(range(len(q))) - set(destinations)):
        cosines = [float(q[source] @ q[d] / (q[source].norm() * q[d].norm())) for d in destinations]
        cosine = max(cosines)
        best.append((cosine, source, destinations[cosines.index(cosine)]))
    best.sort(reverse=True)
    groups = {d: [d] for d in destinations}
    for _, source, destination in best[:count]:
        groups[destination].append(source)
    return list(groups.values()) + [[source] for _, source, _ in best[count:]]


def by_hand(q: Tensor, k: Tensor, v: Tensor, destinations: list[int], count: int, attend: Attend = plain) -> Tensor:
    """Merge each item of a batch by itself, attend, and copy back."""
    out = torch.empty(v.shape, dtype=torch.float64)
    for b in range(len(q)):
        groups = groups_by_hand(q[b], destinations, count)

        def mean(x: Tensor, groups: list[list[int]] = groups) -> Tensor:
            return torch.stack([x[group].double().mean(0) for group in groups])[None]

        merged = attend(mean(q[b]), mean(k[b]), mean(v[b]))[0]
        for row, group in zip(merged, groups, strict=True):
            out[b, group] = row
    return out


def top_left(height: int, width: int) -> list[int]:
    return [i * width + j for i in range(0, height - 1, 2) for j in range(0, width - 1, 2)]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (2, 2)])
def test_it_is_attention_of_merged_tokens(height: int, width: int, ratio: float) -> None:
    q, k, v = tokens(height, width)
    out = layers(TokenMerging(ratio, "top-left"))(q, k, v, options(height, width))
    assert near(out, by_hand(q, k, v, top_left(height, width), int(ratio * height * width)))


def test_random_destinations_are_drawn_anew_in_each_step_and_the_same_in_each_run() -> None:
    q, k, v = tokens(6, 8)
    method = layers(TokenMerging(0.5))
    first, again, other = (method(q, k, v, options(6, 8) | at_step(number)) for number in (1, 1, 2))
    destinations = draw_cells((6, 8), torch.Generator().manual_seed(1))[0].tolist()
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert near(first, by_hand(q, k, v, destinations, 24))
    assert destinations != top_left(6, 8)


@given(st.integers(2, 9), st.integers(2, 9), st.booleans(), st.integers(0, 99))
def test_each_cell_has_one_destination(height: int, width: int, random: bool, seed: int) -> None:
    destinations, others = draw_cells((height, width), torch.Generator().manual_seed(seed) if random else None)
    assert sorted([*destinations.tolist(), *others.tolist()]) == list(range(height * width))
    cells = [(int(d) // width // 2, int(d) % width // 2) for d in destinations]
    assert cells == [(i, j) for i in range(height // 2) for j in range(width // 2)]


def test_many_tokens_in_one_keep_their_mean_in_half_precision() -> None:
    x = draw(0, 1, 1024, 4) + 3.0
    place = torch.zeros(1, 1024, dtype=torch.long)
    for dtype in (torch.float16, torch.bfloat16):
        out = merge(x.to(dtype), place, 1)
        assert out.dtype == dtype and (out.double() - x.to(dtype).double().mean(1)).abs().max() < 0.01


def test_merged_and_unmerged_tokens_are_the_mean_of_their_group() -> None:
    x = draw(0, 2, 30, 3)
    place = match(draw(1, 2, 30, 5), *draw_cells((5, 6), None), 11)
    merged = merge(x, place, 19)
    assert merged.shape == (2, 19, 3) and unmerge(merged, place).shape == x.shape
    assert torch.allclose(merge(unmerge(merged, place), place, 19), merged, atol=1e-6)
    assert torch.allclose(unmerge(merged, place).mean(1), x.mean(1), atol=1e-6)


def test_an_identity_matrix_inside_gives_the_mean_of_the_values_and_outside_blends_with_each_value() -> None:
    q, k, v = tokens(6, 8)
    identity = AttentionPatch("attn1.out", "identity")
    inside = layers(identity, TOP_LEFT)(q, k, v, options(6, 8))
    assert near(inside, by_hand(q, k, v, top_left(6, 8), 24, lambda q, k, v: v))
    half = AttentionPatch("attn1.out", "identity", strength=0.5)
    outside = layers(TOP_LEFT, half)(q, k, v, options(6, 8))
    assert near(outside, 0.5 * by_hand(q, k, v, top_left(6, 8), 24) + 0.5 * v)


def test_keys_of_another_number_stay_as_they_are() -> None:
    q, k, v = tokens(4, 6)
    k, v = k[:, :10], v[:, :10]
    expected = by_hand(q, q, q, top_left(4, 6), 12, lambda queries, *_: queries)  # the merged queries, copied back
    out = layers(TOP_LEFT)(q, k, v, options(4, 6))
    assert near(out, plain(expected, k, v))


def test_the_projection_of_merged_tokens_is_the_merging_of_projected_ones() -> None:
    x, weight = draw(0, 2, 24, 5).double(), draw(1, 5, 7).double()
    place = match(x, *draw_cells((4, 6), None), 12)
    assert torch.allclose(merge(x, place, 12).double() @ weight, merge(x @ weight, place, 12).double(), atol=1e-5)


def test_two_mergings_do_not_nest_and_say_so() -> None:
    q, k, v = tokens(6, 8)
    with pytest.raises(ValueError, match="24 tokens are no 6x8 picture"):
        layers(TOP_LEFT, TOP_LEFT)(q, k, v, options(6, 8))


def test_ratio_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        changed = run(attach(model, TokenMerging(0.5)))
        assert torch.equal(run(attach(model, TokenMerging(0.0))), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    torch.manual_seed(1)
    assert torch.equal(run(attach(model, TokenMerging(0.5))), changed)
    value = TokenMerging(0.3, "top-left", Where(parse("middle")))
    assert pickle.loads(pickle.dumps(value)) == value


def test_the_curve_scales_the_ratio_inside_the_window() -> None:
    half = run(attach(patcher(), TokenMerging(0.5, where=Where(schedule=Schedule(curve="0:0.5, 1:0.5")))))
    assert torch.equal(half, run(attach(patcher(), TokenMerging(0.25, where=Where()))))
    model = attach(patcher(), TokenMerging(0.5, where=Where(parse("input:1"), Schedule(0.0, 0.5))))
    run(model)
    assert f"ran {STEPS // 2} times in 1 of 1 blocks" in report.text(last_run(model))


def test_the_report_names_blocks_that_are_too_small() -> None:
    model = attach(patcher(), TokenMerging(0.01, where=Where(parse("input"))))  # 64 tokens in input:1, 16 in input:3
    run(model)
    assert "never ran, too few tokens to merge" in report.text(last_run(model))
    model = attach(patcher(), TokenMerging(0.05, where=Where(parse("input"))))
    run(model)
    assert "in 1 of 3 blocks; never in input:3, input:3.1 (too few tokens to merge)" in report.text(last_run(model))


@pytest.mark.parametrize(
    "guidance",
    [PerturbedGuidance(scale=2.0, where=INPUT), SmoothedGuidance(scale=2.0, blur=2.0, where=INPUT)],
    ids=lambda guidance: guidance.name,
)
def test_guidance_on_the_same_block_works_in_both_orders(guidance: Any) -> None:
    merging = TokenMerging(0.5, where=INPUT)
    first = run(attach(attach(patcher(), guidance), merging))
    second = run(attach(attach(patcher(), merging), guidance))
    assert torch.equal(first, second)  # the weak layer of the extra call is the outermost in both
    assert not torch.equal(first, run(attach(patcher(), guidance)))


def test_wrong_settings_are_refused() -> None:
    for ratio in (-0.1, 0.8, math.nan):
        with pytest.raises(ValueError, match=f"ratio is {ratio}"):
            TokenMerging(ratio)
    with pytest.raises(ValueError, match="unknown destination 'middle'"):
        TokenMerging(0.5, "middle")
    with pytest.raises(ValueError, match="says cross, but this is for self-attention"):
        TokenMerging(where=Where(parse("all cross")))
