"""All guidance methods in one run: each has its part, each costs what it says, and the order of pushes is free."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.self_attention_guidance import SelfAttentionGuidance
from attention_patchbay.ldm_patched.patches.methods.sliding_window_guidance import SlidingWindowGuidance
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.methods.sparse_attention import SparseAttention
from attention_patchbay.ldm_patched.patches.reading import report

from .models import STEPS, draw, last_run, patcher, run, unchanged

WHERE = parse("middle, input:3")  # 3 transformer blocks
PUSHES = [
    PerturbedGuidance(scale=0.5, where=Where(WHERE)),
    SmoothedGuidance(scale=0.5, where=Where(WHERE), blur=1.5),
    SelfAttentionGuidance(0.2, 1.0, 0.9, Where(WHERE)),
    SlidingWindowGuidance(scale=0.5, where=Where(WHERE)),
]
INSIDE = [NormalizedGuidance(draw(9, 1, 5, 16), where=Where(WHERE)), SparseAttention(1.0, where=Where(WHERE))]


def put(methods: list[Any]) -> Any:
    model = patcher()
    for method in methods:
        model = attach(model, method)
    return model


def test_every_method_runs_in_each_of_its_blocks_and_no_call_is_made_twice() -> None:
    model, calls = put([*INSIDE, *PUSHES]), []

    def count(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        calls.append(args["cond_or_uncond"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(count)
    with unchanged(model):
        assert torch.isfinite(run(model)).all()
    assert calls == [[1, 0], [0], [0], [1], [0]] * STEPS
    fates = [line.partition(": ran ")[2] for line in report.text(last_run(model)).splitlines() if ": ran " in line]
    inside, weak = 5 * STEPS * 3, STEPS * 3
    assert fates == [f"{times} times in 3 of 3 blocks" for times in (inside, inside, weak, weak, weak, weak)]


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [1, 3, 0, 2]])
def test_the_pushes_add_up_in_any_order(order: list[int]) -> None:
    first = run(put([*INSIDE, *PUSHES]), steps=1)
    other = run(put([*(PUSHES[i] for i in order), *INSIDE]), steps=1)
    assert (first - other).abs().max() < 1e-4 * first.abs().max()


def test_one_guided_step_is_the_sum_of_its_pushes() -> None:
    base = run(put(INSIDE), steps=1)
    sum_of_all = sum(run(put([*INSIDE, push]), steps=1) - base for push in PUSHES)
    together = run(put([*INSIDE, *PUSHES]), steps=1) - base
    assert (together - sum_of_all).abs().max() < 1e-4 * base.abs().max()
