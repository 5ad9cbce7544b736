"""Self-attention guidance: the maps, the degraded picture, the push, and what stays untouched."""

from __future__ import annotations

import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.scores import sliced_scores
from attention_patchbay.ldm_patched.patches.engine.stack import split
from attention_patchbay.ldm_patched.patches.methods import self_attention_guidance
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.self_attention_guidance import (
    SelfAttentionGuidance,
    degraded,
    looked_at,
)
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.run import run_of
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.cond_batch import calc_cond_batch

from .models import STEPS, conditioning, draw, last_run, patcher, run, unchanged
from .test_guidance import by_hand

MIDDLE = parse("middle")


def shares_by_hand(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    out = torch.zeros(k.shape[:2], dtype=torch.float64)
    dim = q.shape[2] // heads
    for b in range(q.shape[0]):
        for h in range(heads):
            part = slice(h * dim, h * dim + dim)
            for row in q[b, :, part].double():
                scores = torch.stack([row @ key for key in k[b, :, part].double()]) / math.sqrt(dim)
                out[b] += scores.exp() / scores.exp().sum() / heads
    return out


def test_the_map_is_the_attention_that_each_token_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = draw(0, 2, 12, 8), draw(1, 2, 12, 8)
    expected = shares_by_hand(q, k, 2)
    q, k = split(q, 2), split(k, 2)
    assert (looked_at(q, k) - expected).abs().max() < 1e-5
    assert torch.allclose(looked_at(q, k).mean(1), torch.ones(2))
    one_by_one = partial(sliced_scores, most=1)
    monkeypatch.setattr(self_attention_guidance, "sliced_scores", one_by_one)
    assert (looked_at(q, k) - expected).abs().max() < 1e-5


def test_the_picture_is_blurred_where_the_map_is_above_the_threshold() -> None:
    x = draw(0, 1, 2, 6, 6)
    one = torch.tensor([[[[0.5, 2.0], [1.0, 3.0]]]])
    out = degraded(x, [one, one + 0.2], 1.5, 1.05)
    for channel in range(2):
        smooth = by_hand(x[0, channel], 1.5)
        expected = x[0, channel].double().clone()
        expected[:, 3:] = smooth[:, 3:]  # maps of 2.1 and 3.1
        expected[3:, :3] = smooth[3:, :3]  # 1.1
        assert (out[0, channel] - expected).abs().max() < 1e-5


def test_the_guided_prediction_is_the_formula() -> None:
    """One step from the sampler's side: x0 + s (degraded - D(degraded + noise)), by hand with plain hooks."""
    seen: list[dict[str, Any]] = []
    model = attach(patcher(), SelfAttentionGuidance(1.5, 1.0, 0.9, Where(MIDDLE)))
    hook = model.model_options["sampler_post_cfg_function"].pop()
    notes: list[tuple[torch.Tensor, torch.Tensor]] = []

    def catch(args: dict[str, Any]) -> torch.Tensor:
        seen.append({**args, "guided": hook(args)})
        return args["denoised"]

    def note(n: torch.Tensor, context: Any, value: Any, options: dict[str, Any]) -> tuple:
        if options["block"] == ("middle", 0) and "patchbay_extra_call" not in options:
            notes.append((n, options["cond_or_uncond"]))
        return n, context, value

    model.set_model_attn1_patch(note)
    model.set_model_sampler_post_cfg_function(catch)
    run(model, steps=1)
    (args,) = seen
    (hidden, sides), attention = notes[0], model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1
    shares = shares_by_hand(attention.to_q(hidden), attention.to_k(hidden), 4)[sides.index(1)]
    grid = shares.reshape(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1) > 0.9
    x0 = args["uncond_denoised"].double()
    smooth = torch.stack([by_hand(x0[0, c], 1.0) for c in range(4)])[None]
    worse = torch.where(grid, smooth, x0)
    noised = (worse + args["input"] - x0).float()
    (again,) = calc_cond_batch(args["model"], [args["uncond"]], noised, args["sigma"], {"transformer_options": {}})
    expected = args["denoised"] + 1.5 * (worse - again)
    assert (args["guided"] - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (args["guided"] - args["denoised"]).abs().max() > 1e-2


@pytest.mark.parametrize(("cfg", "sides"), [(4.0, [[1, 0], [1]]), (1.0, [[0], [0]])])
def test_methods_of_the_positive_side_know_which_side_the_extra_call_predicts(cfg: float, sides: list) -> None:
    model = attach(patcher(), SelfAttentionGuidance(1.0, where=Where(MIDDLE)))
    seen: list[list[int]] = []

    def note(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        seen.append(args["cond_or_uncond"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(note)
    prompts = conditioning(1), conditioning(2)
    samplers.sample(model, draw(0, 1, 4, 8, 8), *prompts, cfg, 1, "euler", "normal", 1.0, seed=0)
    assert seen == sides


def test_separate_calls_of_the_sides_give_what_one_call_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attach(patcher(), SelfAttentionGuidance(1.0, where=Where(MIDDLE)))
    joint = run(model)
    monkeypatch.setattr("attention_patchbay.ldm_patched.sampling.cond_batch._can_join", lambda a, b: a is b)
    assert torch.allclose(run(model), joint, rtol=1e-4, atol=1e-3)


def test_the_maps_are_forgotten_after_their_step() -> None:
    model = attach(patcher(), SelfAttentionGuidance(1.0, where=Where(MIDDLE)))
    kept: list[dict[str, Any]] = []

    def keep(args: dict[str, Any]) -> torch.Tensor:
        now = run_of(args["model_options"]["transformer_options"])
        assert now is not None
        kept.append(dict(now.memory(1)))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(keep)
    run(model)
    assert kept == [{}] * STEPS


def test_without_a_negative_side_the_positive_one_is_degraded() -> None:
    model = attach(patcher(), SelfAttentionGuidance(1.0, where=Where(MIDDLE)))
    noise = draw(0, 1, 4, 8, 8)
    prompts = conditioning(1), conditioning(2)
    out = samplers.sample(model, noise, *prompts, 1.0, 2, "euler", "normal", 1.0, seed=0)
    base = samplers.sample(patcher(), noise, *prompts, 1.0, 2, "euler", "normal", 1.0, seed=0)
    assert not torch.equal(out, base)
    assert list(last_run(model).memories) == []  # released after the run


def test_scale_0_and_no_window_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        assert torch.equal(run(attach(model, SelfAttentionGuidance(0.0, where=Where()))), base)
        assert torch.equal(
            run(attach(model, SelfAttentionGuidance(1.0, where=Where(schedule=Schedule(0.5, 0.5))))), base
        )
        guided = attach(model, SelfAttentionGuidance(1.0, where=Where(MIDDLE)))
        changed = run(guided)
    assert not torch.equal(changed, base) and torch.equal(run(model), base)
    assert torch.equal(run(guided), changed)
    assert f"ran {STEPS} times in 1 of 1 blocks" in report.text(last_run(guided))


def test_it_costs_one_call_a_step_beside_the_other_guidances() -> None:
    model = patcher()
    for method in (SelfAttentionGuidance(1.0, where=Where(MIDDLE)), PerturbedGuidance(scale=1.0, where=Where(MIDDLE))):
        model = attach(model, method)
    model = attach(model, SmoothedGuidance(scale=1.0, where=Where(MIDDLE)))
    calls = []

    def count(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        calls.append(1)
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(count)
    run(model)
    assert len(calls) == 4 * STEPS
    assert "never ran" not in report.text(last_run(model))


def test_it_is_a_value_and_wrong_settings_are_refused() -> None:
    method = SelfAttentionGuidance(1.0, 1.0, 0.5, Where(MIDDLE, Schedule(0.1, 0.9)))
    assert pickle.loads(pickle.dumps(method)) == method
    for wrong, reason in (((math.nan,), "scale"), ((1.0, 0.0), "blur"), ((1.0, 1.0, -1.0), "threshold")):
        with pytest.raises(ValueError, match=f"{reason} is"):
            SelfAttentionGuidance(*wrong)
    with pytest.raises(AddressError, match="this is for self-attention"):
        SelfAttentionGuidance(where=Where(parse("all cross")))
