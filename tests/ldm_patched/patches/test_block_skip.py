"""Skipped attention: nothing is added and nothing computed; guidance away from it; schedule; composition."""

from __future__ import annotations

import functools

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.block_skip import BlockSkip
from attention_patchbay.ldm_patched.patches.methods.skip_guidance import SkipGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling.cond_batch import calc_cond_batch

from . import models
from .models import calls, last_run, patcher, unchanged

STEPS = 4  # a window of half a run has two
run = functools.partial(models.run, steps=STEPS)

MIDDLE, INPUT = parse("middle"), parse("input:3")
KINDS = {"self": ["attn1"], "cross": ["attn2"], "all": ["attn1", "attn2"]}


def without(names: list[str], rest: float = 0.0) -> torch.Tensor:
    """Sample with the middle's attention outputs multiplied by `rest`, by plain hooks."""
    model = patcher()
    for name in names:

        def fade(n: torch.Tensor, options: dict) -> torch.Tensor:
            return n * rest if options["block"][0] == "middle" else n

        model.set_model_patch(fade, f"{name}_output_patch")
    return run(model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_attention_adds_nothing_and_is_not_computed(kind: str) -> None:
    model = attach(patcher(), BlockSkip(kind, where=Where(MIDDLE)))
    assert torch.equal(run(model), without(KINDS[kind]))
    functions = {(block, attention): function for block, attention, function in calls(model) if block == "middle"}
    assert [functions["middle", side] == "none" for side in ("self", "cross")] == [kind != "cross", kind != "self"]
    uses = STEPS * len(KINDS[kind])
    assert f"on middle: ran {uses} times in 1 of 1 blocks" in report.text(last_run(model))


def test_the_address_can_name_the_kind() -> None:
    by_address = BlockSkip("all", where=Where(parse("middle cross")))
    assert by_address.name == "skip cross-attention on middle" and by_address.slot == "attn2"
    assert torch.equal(run(attach(patcher(), by_address)), without(["attn2"]))


def test_strength_and_curve_are_the_part_that_is_taken_away() -> None:
    expected = without(["attn1"], rest=0.75)
    curve = Schedule(curve="0:0.25, 1:0.25")
    for skip in (BlockSkip("self", 0.25, Where(MIDDLE)), BlockSkip("self", 1.0, Where(MIDDLE, curve))):
        out = run(attach(patcher(), skip))
        assert torch.allclose(out, expected, atol=1e-5 * float(expected.abs().max()))


def test_strength_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        skipped = attach(model, BlockSkip(where=Where(MIDDLE)))
        changed = run(skipped)
        assert torch.equal(run(attach(model, BlockSkip(strength=0.0))), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    assert torch.equal(run(skipped), changed) and torch.equal(run(skipped.clone()), changed)


def test_outside_its_window_it_does_nothing() -> None:
    never = attach(patcher(), BlockSkip(where=Where(MIDDLE, Schedule(0.0, 0.0))))
    assert torch.equal(run(never), run(patcher()))
    half = attach(patcher(), BlockSkip("self", where=Where(MIDDLE, Schedule(0.0, 0.5))))
    run(half)
    assert f"ran {STEPS // 2} times" in report.text(last_run(half))


def test_a_skip_wins_over_a_patch_of_the_same_attention_in_both_orders() -> None:
    skip, patch = BlockSkip("self", where=Where(MIDDLE)), AttentionPatch("attn1.out", "identity", where=Where(MIDDLE))
    expected = without(["attn1"])
    assert torch.equal(run(attach(attach(patcher(), skip), patch)), expected)
    assert torch.equal(run(attach(attach(patcher(), patch), skip)), expected)


def test_the_guided_prediction_is_pushed_away_from_zero_attention() -> None:
    seen: list[dict] = []
    model = patcher()
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
    run(attach(model, SkipGuidance(scale=2.5, where=Where(MIDDLE))), steps=1)
    args = seen[0]
    plain = patcher()
    plain.set_model_attn1_replace(lambda q, k, v, options: torch.zeros_like(q), "middle", 0)
    options = {"transformer_options": plain.model_options["transformer_options"]}
    (weak,) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
    out = attach(patcher(), SkipGuidance(scale=2.5, where=Where(MIDDLE))).model_options["sampler_post_cfg_function"][0](
        args
    )
    expected = args["denoised"] + 2.5 * (args["cond_denoised"] - weak)
    assert torch.equal(out, expected) and (out - args["denoised"]).abs().max() > 1e-2
    with_skip = attach(
        attach(patcher(), BlockSkip("cross", where=Where(INPUT))), SkipGuidance(scale=2.0, where=Where(MIDDLE))
    )
    run(with_skip)
    assert "skip-layer guidance 2 on middle: ran 4 times in 1 of 1" in report.text(last_run(with_skip))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'both'; choose one of all, self, cross"):
        BlockSkip("both")
    with pytest.raises(ValueError, match="strength is -1"):
        BlockSkip(strength=-1)
    with pytest.raises(ValueError, match="says self, but this is for cross-attention"):
        BlockSkip("cross", where=Where(parse("middle self")))
