"""Guidance by weakened self-attention: the formula, the schedule, and what stays untouched."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.grid import blurred
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import merged, split
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.sampling.cond_batch import calc_cond_batch

from .models import STEPS, draw, last_run, patcher, run, unchanged

MIDDLE = parse("middle")
GUIDANCES = [
    PerturbedGuidance(scale=2.5, where=Where(MIDDLE)),
    SmoothedGuidance(scale=2.5, where=Where(MIDDLE)),
    SmoothedGuidance(scale=2.5, blur=1.5, where=Where(MIDDLE)),
]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (x.double().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def by_hand(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur a grid (h, w) in float64 with one sum over all pixels of the mirrored picture."""
    height, width = x.shape
    out = torch.zeros(height, width, dtype=torch.float64)

    def weights(size: int, at: int) -> torch.Tensor:
        radius = min(math.ceil(3 * sigma), size - 1)
        row = torch.zeros(size, dtype=torch.float64)
        for offset in range(-radius, radius + 1):
            place = abs(at + offset)
            row[place if place < size else 2 * (size - 1) - place] += math.exp(-0.5 * (offset / sigma) ** 2)
        return row / row.sum()

    for i in range(height):
        for j in range(width):
            out[i, j] = weights(height, i) @ x.double() @ weights(width, j)
    return out


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 40.0])
def test_the_blur_is_a_gaussian_over_the_picture(sigma: float) -> None:
    x = draw(0, 2, 5 * 7, 3)
    out = blurred(x, (5, 7), sigma)
    for b, c in ((0, 0), (1, 2)):
        expected = by_hand(x[b, :, c].reshape(5, 7), sigma)
        assert (out[b, :, c].reshape(5, 7).double() - expected).abs().max() < 1e-6


def test_an_infinite_blur_is_the_mean() -> None:
    q, k, v = draw(0, 2, 12, 8), draw(1, 2, 12, 8), draw(2, 2, 12, 8)

    def inner(*x: torch.Tensor) -> torch.Tensor:
        return split(attend(*(merged(one) for one in x), 2), 2)

    out = merged(SmoothedGuidance().weak_attend(Site({}), split(q, 2), split(k, 2), split(v, 2), inner))
    mean = q.double().mean(1, keepdim=True).expand_as(q)
    assert (out - attend(mean, k, v, 2)).abs().max() < 1e-6
    assert (blurred(q, (3, 4), 1e4) - q.mean(1, keepdim=True)).abs().max() < 1.0


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda guidance: guidance.name)
def test_the_guided_prediction_is_the_formula(guidance: Any) -> None:
    """One step from the sampler's side, against the weak model built with plain hooks."""
    seen: list[dict[str, Any]] = []
    model = patcher()
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
    run(attach(model, guidance), steps=1)
    args = seen[0]

    def weak_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        heads = options["n_heads"]
        if isinstance(guidance, PerturbedGuidance):
            return v
        if math.isinf(guidance.blur):
            q = q.mean(1, keepdim=True).expand_as(q)
        else:
            grid = options["activations_shape"][-2:]
            rows = [
                [by_hand(q[b, :, c].reshape(*grid), guidance.blur).flatten() for c in range(q.shape[2])] for b in (0,)
            ]
            q = torch.stack([torch.stack(row, dim=-1) for row in rows])
        return attend(q, k, v, heads).to(v.dtype)

    plain = patcher()
    plain.set_model_attn1_replace(weak_attention, "middle", 0)
    options = {"transformer_options": plain.model_options["transformer_options"]}
    (weak,) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
    hook = attach(patcher(), guidance).model_options["sampler_post_cfg_function"][0]
    out = hook(args)
    expected = args["denoised"] + 2.5 * (args["cond_denoised"] - weak)
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (out - args["denoised"]).abs().max() > 1e-2


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda guidance: guidance.name)
def test_scale_0_is_bit_equal_and_the_input_model_is_left_alone(guidance: Any) -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        guided = attach(model, guidance)
        changed = run(guided)
        assert torch.equal(run(attach(model, replace(guidance, scale=0.0))), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    with unchanged(guided):
        assert torch.equal(run(guided), changed)
    assert torch.equal(run(guided.clone()), changed)


def test_it_costs_one_call_a_step_and_none_outside_its_window() -> None:
    def calls(schedule: Schedule) -> int:
        count = 0
        model = attach(patcher(), PerturbedGuidance(scale=2.0, where=Where(MIDDLE, schedule)))

        def counting(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
            nonlocal count
            count += 1
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(counting)
        run(model)
        return count

    assert calls(Schedule()) == 2 * STEPS
    assert calls(Schedule(0.0, 0.5)) == STEPS + STEPS // 2
    assert calls(Schedule(curve="0:0, 1:0")) == STEPS


def test_the_curve_scales_the_push() -> None:
    half = run(attach(patcher(), PerturbedGuidance(scale=4.0, where=Where(MIDDLE, Schedule(curve="0:0.5, 1:0.5")))))
    assert torch.allclose(half, run(attach(patcher(), PerturbedGuidance(scale=2.0, where=Where(MIDDLE)))), atol=1e-5)


def test_the_report_shows_it_and_why_it_never_ran() -> None:
    model = attach(patcher(), SmoothedGuidance(scale=2.0, where=Where(MIDDLE)))
    run(model)
    assert f"smoothed-energy inf guidance 2 on middle: ran {STEPS} times in 1 of 1 blocks" in report.text(
        last_run(model)
    )
    never = attach(model, PerturbedGuidance(scale=2.0, where=Where(MIDDLE, Schedule(0.0, 0.0))))
    run(never)
    assert "never ran, no step of the run lay in its window" in report.text(last_run(never))


def test_it_composes_with_patches_rules_and_another_guidance() -> None:
    patch, rule = AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("input:3"))), Rule("basic")
    everything = attach(attach(patcher(), patch), rule)
    for guidance in GUIDANCES:
        everything = attach(everything, replace(guidance, scale=1.0, where=Where(parse("middle, input:3"))))
    run(everything)
    lines = report.text(last_run(everything))
    assert "never ran" not in lines and "pytorch" not in lines
    assert lines.count(f"ran {3 * STEPS} times in 3 of 3 blocks") == len(GUIDANCES)
    # the patch runs in every call but those of the perturbed attention, which calls nothing below it
    assert f"ran {(1 + 2) * 2 * STEPS} times in 2 of 2 blocks" in lines
    one = attach(patcher(), PerturbedGuidance(scale=1.0, where=Where(MIDDLE)))
    first = run(attach(one, SmoothedGuidance(scale=1.0, where=Where(MIDDLE))))
    other = attach(patcher(), SmoothedGuidance(scale=1.0, where=Where(MIDDLE)))
    second = run(attach(other, PerturbedGuidance(scale=1.0, where=Where(MIDDLE))))
    assert torch.allclose(first, second, atol=1e-4)  # pushes add up


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="scale is nan"):
        PerturbedGuidance(scale=math.nan)
    with pytest.raises(ValueError, match="says cross, but this is for self-attention"):
        PerturbedGuidance(scale=1.0, where=Where(parse("middle cross")))
    with pytest.raises(ValueError, match="blur is 0"):
        SmoothedGuidance(blur=0)
    with pytest.raises(AddressError, match="no block 'input:9'"):
        attach(patcher(), PerturbedGuidance(scale=1.0, where=Where(parse("input:9"))))
