"""A whole run: what the hooks see, what they can change, and that nothing of it is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules import model_management
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.patcher_extension import CallbacksMP, WrappersMP
from attention_patchbay.ldm_patched.sampling.model_sampling import discrete_sampling
from attention_patchbay.ldm_patched.sampling.samplers import SAMPLER_NAMES, sample, sampler_object, sampler_sigmas
from torch import Tensor

from ..modules.test_model_patcher import KEY, shape_of, state
from ..tiny import conditioning, draw, patcher

NOISE = draw(3, 1, 4, 8, 8)
STEPS = 4


@pytest.fixture(scope="module")
def bare() -> ModelPatcher:
    return patcher()


@pytest.fixture
def model(bare: ModelPatcher) -> ModelPatcher:
    return bare.clone()


def run(model: ModelPatcher, cfg: float = 3.0, **options: Any) -> Tensor:
    positive, negative = options.pop("positive", conditioning(1)), options.pop("negative", conditioning(2))
    return sample(model, NOISE, positive, negative, cfg, STEPS, "euler", "normal", seed=3, **options)


def test_hooks_see_the_run_and_nothing_leaks_into_the_patcher(model: ModelPatcher) -> None:
    seen: list[dict[str, Any]] = []
    counter: dict[str, int] = {}

    def patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(dict(options))
        options["left by a patch"] = True
        return n, context, value

    model.set_model_attn1_patch(patch)
    model.model_options["transformer_options"]["counter"] = counter
    before = shape_of(state(model))
    run(model)
    assert shape_of(state(model)) == before
    sigmas = sampler_sigmas(model, "euler", "normal", STEPS)
    assert len(seen) == STEPS * 4  # one call of the four transformers each step
    for step, options in enumerate(seen[::4]):
        assert torch.equal(options["sample_sigmas"], sigmas)
        assert torch.equal(options["sigmas"], sigmas[step : step + 1])
        assert options["cond_or_uncond"] == [1, 0]
        assert len(set(options["uuids"])) == 2
        assert options["counter"] is not counter
        assert "left by a patch" not in options
    assert {tuple(options["uuids"]) for options in seen} == {tuple(seen[0]["uuids"])}


def test_wrappers_stand_around_every_stage_in_order(model: ModelPatcher) -> None:
    log: list[str] = []

    def wrapper(name: str) -> Any:
        def call(executor: Any, *args: Any, **kwargs: Any) -> Any:
            log.append(name)
            return executor(*args, **kwargs)

        return call

    stages = ("OUTER_SAMPLE", "PREPARE_SAMPLING", "SAMPLER_SAMPLE", "PREDICT_NOISE", "CALC_COND_BATCH", "APPLY_MODEL")
    stages += ("DIFFUSION_MODEL",)
    plain = run(model)
    for stage in stages:
        model.add_wrapper_with_key(getattr(WrappersMP, stage), "log", wrapper(stage))
    assert torch.equal(run(model), plain)
    assert log == [*stages[:3], *stages[3:] * STEPS]


def test_a_wrapper_in_the_options_runs_like_one_of_the_patcher(model: ModelPatcher) -> None:
    calls: list[int] = []

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return executor(*args, **kwargs)

    options = model.model_options["transformer_options"]
    options["wrappers"] = {WrappersMP.APPLY_MODEL: {"options": [wrapper]}}
    model.add_wrapper(WrappersMP.APPLY_MODEL, wrapper)
    run(model)
    assert len(calls) == 2 * STEPS
    assert options == {"wrappers": {WrappersMP.APPLY_MODEL: {"options": [wrapper]}}}


@pytest.mark.parametrize("stage", ["attn1", "callback", "prepare", "interrupt"])
def test_callbacks_and_patches_are_undone_after_a_failure(model: ModelPatcher, stage: str) -> None:
    log: list[str] = []
    original = model.model_state_dict()[KEY].clone()
    model.add_patches({KEY: (torch.ones(32, 32),)})
    model.add_object_patch("model_sampling", discrete_sampling("v_prediction"))
    model.add_callback(CallbacksMP.ON_PRE_RUN, lambda patcher: log.append("pre_run"))
    model.add_callback(CallbacksMP.ON_CLEANUP, lambda patcher: log.append("cleanup"))

    def fail(*args: Any, **kwargs: Any) -> Any:
        if stage == "interrupt":
            model_management.interrupt_current_processing()
            return None
        raise KeyError("from a patch")

    if stage == "attn1":
        model.set_model_attn1_patch(fail)
    if stage == "prepare":
        model.add_callback(CallbacksMP.ON_PREPARE_STATE, fail)
    expected = model_management.InterruptProcessingException if stage == "interrupt" else KeyError
    with pytest.raises(expected):
        run(model, callback=fail if stage in ("callback", "interrupt") else None)
    assert log == ["pre_run", "cleanup"]
    assert torch.equal(model.model_state_dict()[KEY], original)
    assert type(model.model.model_sampling) is type(discrete_sampling("eps"))
    assert model.model.patched_by is None and model.model.current_patcher is None


def test_weight_patches_are_in_effect_during_the_run_only(model: ModelPatcher) -> None:
    plain = run(model)
    patched = model.clone()
    patched.add_patches({KEY: (torch.full((32, 32), 0.3),)})
    assert not torch.equal(run(patched), plain)
    assert torch.equal(run(model), plain)


def test_guidance_one_skips_the_negative_unless_told_otherwise(model: ModelPatcher) -> None:
    seen: list[list[int]] = []

    def wrapper(apply_model: Any, call: dict[str, Any]) -> Tensor:
        seen.append(call["cond_or_uncond"])
        return apply_model(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(wrapper)
    run(model, cfg=1.0)
    assert seen == [[0]] * STEPS
    seen.clear()
    model.disable_model_cfg1_optimization()
    run(model, cfg=1.0)
    assert seen == [[1, 0]] * STEPS


def test_guidance_is_linear_in_the_scale(model: ModelPatcher) -> None:
    outputs: dict[float, Tensor] = {}
    for scale in (0.0, 1.0, 3.0):
        model = model.clone()
        model.disable_model_cfg1_optimization()
        model.set_model_sampler_post_cfg_function(lambda args, scale=scale: outputs.setdefault(scale, args["denoised"]))
        run(model, cfg=scale)
        model.model_options.pop("sampler_post_cfg_function")
    torch.testing.assert_close(outputs[3.0], outputs[0.0] + 3 * (outputs[1.0] - outputs[0.0]), rtol=1e-4, atol=1e-3)


def test_a_guidance_function_that_repeats_the_formula_changes_nothing(model: ModelPatcher) -> None:
    plain = run(model)
    keys: set[str] = set()

    def formula(args: dict[str, Any]) -> Tensor:
        keys.update(args)
        return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]

    model.set_model_sampler_cfg_function(formula)
    torch.testing.assert_close(run(model), plain, rtol=1e-4, atol=2e-3)
    assert keys >= {"input", "sigma", "timestep", "cond_denoised", "uncond_denoised", "model", "model_options"}
    assert keys >= {"input_cond", "input_uncond"}


def test_pre_and_post_functions_chain(model: ModelPatcher) -> None:
    log: list[str] = []

    def pre(args: dict[str, Any]) -> list[Tensor]:
        log.append("pre")
        return [args["conds_out"][1], args["conds_out"][1]]

    def post(args: dict[str, Any]) -> Tensor:
        log.append("post")
        assert torch.equal(args["denoised"], args["uncond_denoised"])
        return args["denoised"]

    model.set_model_sampler_pre_cfg_function(pre)
    model.set_model_sampler_post_cfg_function(post)
    model.set_model_sampler_post_cfg_function(post)
    out = run(model)
    assert log == ["pre", "post", "post"] * STEPS
    torch.testing.assert_close(out, run(model.parent, positive=conditioning(2)), rtol=1e-4, atol=1e-3)


def test_a_replaced_evaluation_is_the_only_one(model: ModelPatcher) -> None:
    def zeros(args: dict[str, Any]) -> list[Tensor]:
        assert len(args["conds"]) == 2
        return [torch.zeros_like(args["input"])] * 2

    model.set_model_sampler_calc_cond_batch_function(zeros)
    assert run(model).abs().max() < 1e-4


def test_progress_counts_every_step(model: ModelPatcher) -> None:
    seen: list[tuple[int, int]] = []
    run(model, callback=lambda i, denoised, x, total: seen.append((i, total)))
    assert seen == [(i, STEPS) for i in range(STEPS)]


def test_the_masked_out_part_keeps_the_latent(model: ModelPatcher) -> None:
    latent, mask = draw(7, 1, 4, 8, 8), torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    out = run(model, latent_image=latent, noise_mask=mask)
    torch.testing.assert_close(out[..., :4], latent[..., :4], rtol=1e-5, atol=1e-5)
    assert (out[..., 4:] - latent[..., 4:]).abs().max() > 1


def test_a_mask_function_gets_each_sigma(model: ModelPatcher) -> None:
    seen: list[float] = []

    def none_masked(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        seen.append(float(sigma))
        assert set(extra_options) == {"model", "sigmas"}
        return torch.ones_like(mask)

    model.set_model_denoise_mask_function(none_masked)
    latent = draw(7, 1, 4, 8, 8)
    out = run(model, latent_image=latent, noise_mask=torch.zeros(8, 8))
    assert torch.equal(out, run(model.parent, latent_image=latent))
    assert seen == sampler_sigmas(model, "euler", "normal", STEPS)[:-1].tolist()


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_partial_denoising_takes_the_end_of_a_longer_schedule(bare: ModelPatcher, name: str) -> None:
    part = sampler_sigmas(bare, name, "karras", 5, 0.5)
    assert torch.equal(part, sampler_sigmas(bare, name, "karras", 10)[-6:])
    assert len(sampler_sigmas(bare, name, "karras", 5)) == 6
    assert len(sampler_sigmas(bare, name, "karras", 5, 0.0)) == 0


def test_unknown_sampler_is_refused(model: ModelPatcher) -> None:
    with pytest.raises(ValueError, match="'plms'; known are euler"):
        sampler_object("plms")
