"""Whole pipelines of diffusers with patches: the guidance they use, the steps they make, the texts they encode."""

from __future__ import annotations

import warnings
from typing import Any

import attention_patchbay as ap
import pytest
import torch
from attention_patchbay.ldm_patched.on_diffusers.levels import levels
from attention_patchbay.ldm_patched.on_diffusers.texts import PipelineText
from attention_patchbay.ldm_patched.patches.addressing.schedule import percent_of
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from .pipelines import LENGTH, drawn, drawn_by_flux, flux_pipeline, stable_diffusion
from .tiny import BETAS

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DDIM": (DDIMScheduler, {"clip_sample": False, "steps_offset": 1}),
    "DDIM v": (DDIMScheduler, {"clip_sample": False, "steps_offset": 1, "prediction_type": "v_prediction"}),
    "Euler": (EulerDiscreteScheduler, {"steps_offset": 1}),
    "PNDM": (PNDMScheduler, {"skip_prk_steps": True, "steps_offset": 1}),
    "DPM++ Karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True, "steps_offset": 1}),
}


def made(name: str) -> Any:
    scheduler, settings = SCHEDULERS[name]
    with warnings.catch_warnings():  # diffusers hands tensors to numpy in a way that numpy 2 warns about
        warnings.simplefilter("ignore", DeprecationWarning)
        return scheduler(**BETAS, **settings)


def error(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_window_holds_its_steps_with_any_scheduler(name: str) -> None:
    pipe = stable_diffusion(made(name))
    plain = drawn(pipe)
    ap.patch(pipe, "AttentionTemperature", temperature=0.5, blocks="middle", end_percent=0.5)
    try:
        with ap.run(pipe) as run:
            out = drawn(pipe)
    finally:
        ap.unpatch(pipe)
    assert error(out, plain) > 1e-4
    (row,) = [row for row in ap.report(run).table if row["block"] == "middle" and row["attention"] == "self"]
    assert row["steps"] == "1-4"
    (fate,) = ap.report(run).fates
    sigmas = levels(pipe.scheduler, None).sigmas()
    assert sigmas is not None and run.percent_to_sigma is not None
    told = [percent_of(float(sigma), run.percent_to_sigma) for sigma in sigmas[:-1]]
    assert len(told) == 4 and told == sorted(told)
    # PNDM calls the network twice in its second step
    inside = sum((2 if name == "PNDM" and i == 1 else 1) for i, percent in enumerate(told) if percent < 0.5)
    assert fate["fate"] == f"ran {inside} times in 1 of 1 blocks"
    assert torch.equal(drawn(pipe), plain)


def test_guidance_of_a_pipeline_is_the_formula_at_every_scale() -> None:
    """With linear steps a push away from a weak prediction does not hang on the scale of the prompts' guidance."""
    pipe = stable_diffusion()
    ap.patch(pipe.unet, "PerturbedGuidance", scale=2.0, blocks="middle")
    try:
        with ap.run(pipe):
            guided = drawn(pipe, steps=1)
        with ap.run(pipe.unet, pipe.scheduler, guidance=5.0):
            told = drawn(pipe, steps=1)
        with ap.run(pipe):
            alone = drawn(pipe, cfg=1.0, steps=1)
    finally:
        ap.unpatch(pipe.unet)
    assert torch.equal(guided, told)
    pushes = guided - drawn(pipe, steps=1), alone - drawn(pipe, cfg=1.0, steps=1)
    assert float(pushes[0].norm()) > 1e-2
    assert torch.allclose(*pushes, atol=1e-3)


def test_texts_are_the_pipelines_own() -> None:
    pipe = stable_diffusion()
    plain = drawn(pipe)
    clip = PipelineText(pipe)
    ((ids,),) = clip.tokenize("a red fox").values()
    assert [number for number, _ in ids] == pipe.tokenizer(
        "a red fox", padding="max_length", max_length=LENGTH
    ).input_ids
    ap.patch(pipe, "WordWeight", prompt="a red fox", words="fox", weight=3.0)
    ap.patch(pipe, "NormalizedGuidance", negative="fog", scale=3.0)
    ap.patch(pipe, "RegionalPrompt", regions=[("a blue fox", torch.eye(8))])
    ap.capture(pipe, "a red fox", "red, fox", "all")
    try:
        with ap.run(pipe) as run:
            out = drawn(pipe)
    finally:
        ap.unpatch(pipe)
    assert error(out, plain) > 1e-3
    assert all(row["ran"] for row in ap.report(run).fates)
    assert ap.report(run).fates[0]["name"].startswith("word weight 3 of fox ")
    assert run.entries[0].value.positions == (5, 6, 7)  # the start, a, r, e, d
    expected = pipe.text_encoder(torch.tensor([pipe.tokenizer("fog", padding="max_length").input_ids]))[0]
    assert torch.equal(ap.encode(pipe, "fog")[0][0], expected)
    assert {(row["word"], row["block"]) for row in ap.maps(run)} >= {("red", "middle"), ("fox", "output:3")}
    assert ap.heatmaps(run, 16, 24)["fox"].shape == (1, 16, 24)


def test_flux_shifts_by_size_and_calls_for_each_prompt() -> None:
    pipe, more = flux_pipeline(), {"negative_prompt": "fog", "true_cfg_scale": 3.0}
    plain, both = drawn_by_flux(pipe), drawn_by_flux(pipe, **more)
    ap.patch(pipe, "PerturbedGuidance", scale=2.0, blocks="double:1", end_percent=0.5)
    ap.patch(pipe, "BackendRules", rules="single -> basic")
    try:
        with ap.run(pipe) as run:
            one = drawn_by_flux(pipe)
        with ap.run(pipe) as run_of_both:
            two = drawn_by_flux(pipe, **more)
    finally:
        ap.unpatch(pipe)
    assert error(one, plain) > 1e-3 and error(two, both) > 1e-3
    for record in (run, run_of_both):  # two of four steps lie in the window
        assert ap.report(record).fates[0]["fate"] == "ran 2 times in 1 of 1 blocks"
        assert {row["function"] for row in ap.report(record).table if row["block"] == "single:0"} == {"basic"}
    assert torch.equal(drawn_by_flux(pipe), plain)


def test_texts_of_flux_are_those_of_its_second_encoder() -> None:
    pipe = flux_pipeline()
    plain = drawn_by_flux(pipe)
    ids = pipe.tokenizer_2("fog", padding="max_length", max_length=512).input_ids
    assert torch.equal(ap.encode(pipe, "fog")[0][0], pipe.text_encoder_2(torch.tensor([ids]))[0])
    ap.patch(pipe, "WordWeight", prompt="a red fox", words="fox", weight=0.0)
    ap.patch(pipe, "NormalizedGuidance", negative="fog", scale=4.0)
    ap.capture(pipe, "a red fox", "red, fox", "all")
    try:
        with ap.run(pipe) as run:
            out = drawn_by_flux(pipe)
    finally:
        ap.unpatch(pipe)
    assert error(out, plain) > 1e-4
    assert ap.report(run).fates[0]["name"] == "word weight 0 of fox on all"
    assert run.entries[0].value.positions == (3, 4)  # blank a, blank red, blank f, ox
    assert all(row["ran"] for row in ap.report(run).fates)
    assert {(row["height"], row["width"]) for row in ap.maps(run)} == {(8, 12)}


def test_tuning_times_what_the_pipeline_calls() -> None:
    pipe = stable_diffusion()
    plain = drawn(pipe)
    tuned = ap.tune(pipe, lambda pipe: drawn(pipe, steps=1), seconds=0.2)
    assert tuned.rules.endswith("all -> auto")
    assert {row["function"] for row in tuned.rows} >= {"pytorch", "sub_quad"}
    assert any(f"64 queries, {LENGTH} keys" in row["call"] for row in tuned.rows)
    assert torch.equal(drawn(pipe), plain)


def test_a_flow_scheduler_is_none_of_a_unet_and_the_other_way_round() -> None:
    with pytest.raises(TypeError, match="no alphas_cumprod"):
        levels(FlowMatchEulerDiscreteScheduler(), None)
    with pytest.raises(TypeError, match="no scheduler of flow matching"):
        levels(made("DDIM"), 1.0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_percents_of_a_flow_are_those_before_its_shift(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    for percent in (0.1, 0.5, 0.9):
        left = 1 - percent
        assert levels(scheduler, 1.0).percent_to_sigma(percent) == pytest.approx(
            shift * left / (1 + (shift - 1) * left)
        )
