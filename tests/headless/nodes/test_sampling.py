"""Conditioning and custom sampling nodes on the demo model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.headless.nodes import conditioning
from attention_patchbay.headless.nodes import custom_sampling as custom
from attention_patchbay.headless.nodes import sampling as plain
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint


@pytest.fixture(scope="module")
def model() -> Any:
    return load_checkpoint(CHECKPOINT)


def text(model: Any, words: str) -> Any:
    return model[1].encode_from_tokens_scheduled(model[1].tokenize(words))


def shared(model: Any) -> dict[str, Any]:
    return {"model": model[0], "cfg": 3.0, "positive": text(model, "a red circle"), "negative": text(model, "")}


LATENT = {"samples": torch.zeros(1, 4, 16, 16)}


def ksampler(model: Any, **changes: Any) -> torch.Tensor:
    inputs = {**shared(model), "seed": 4, "steps": 3, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0}
    return plain.KSampler.execute(latent_image=LATENT, **{**inputs, **changes}).args[0]["samples"]


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_the_parts_of_a_sampler_give_what_the_sampler_gives(model: Any, denoise: float) -> None:
    whole = ksampler(model, denoise=denoise)
    (sampler,) = custom.KSamplerSelect.execute("dpmpp_2m").args
    (sigmas,) = custom.BasicScheduler.execute(model[0], "karras", 3, denoise).args
    assert len(sigmas) == 4
    out, clean = custom.SamplerCustom.execute(
        add_noise=True, noise_seed=4, sampler=sampler, sigmas=sigmas, latent_image=LATENT, **shared(model)
    ).args
    assert torch.equal(out["samples"], whole)
    assert clean["samples"].shape == whole.shape


def test_no_denoising_leaves_the_latents(model: Any) -> None:
    (sigmas,) = custom.BasicScheduler.execute(model[0], "normal", 3, 0.0).args
    (sampler,) = custom.KSamplerSelect.execute("euler").args
    out, _ = custom.SamplerCustom.execute(
        add_noise=True, noise_seed=4, sampler=sampler, sigmas=sigmas, latent_image=LATENT, **shared(model)
    ).args
    assert torch.equal(out["samples"], LATENT["samples"])


def test_two_samplers_over_the_steps_give_what_one_gives(model: Any) -> None:
    steps = {**shared(model), "noise_seed": 4, "steps": 4, "sampler_name": "euler", "scheduler": "normal"}
    ends = {"return_with_leftover_noise": "enable", "add_noise": "enable"}
    (first,) = plain.KSamplerAdvanced.execute(latent_image=LATENT, start_at_step=0, end_at_step=2, **steps, **ends).args
    (second,) = plain.KSamplerAdvanced.execute(
        latent_image=first,
        start_at_step=2,
        end_at_step=10000,
        **steps,
        **{**ends, "add_noise": "disable", "return_with_leftover_noise": "disable"},
    ).args
    whole = ksampler(model, steps=4, sampler_name="euler", scheduler="normal")
    assert torch.allclose(second["samples"], whole, atol=1e-4)


def test_an_area_and_a_mask_limit_what_a_conditioning_changes(model: Any) -> None:
    base, other = text(model, "a red circle"), text(model, "a blue square")
    (left,) = conditioning.ConditioningSetArea.execute(other, 64, 128, 0, 0, 1.0).args
    assert left[0][1]["area"] == (16, 8, 0, 0)
    assert "area" not in other[0][1]
    mask = torch.zeros(128, 128)
    mask[:, :64] = 1.0
    (masked,) = conditioning.ConditioningSetMask.execute(other, mask, 1.0, "default").args
    assert masked[0][1]["mask"].shape == (1, 128, 128)
    (both,) = conditioning.ConditioningCombine.execute(base, masked).args
    alone, mixed = ksampler(model, steps=1, positive=base), ksampler(model, steps=1, positive=both)
    assert torch.allclose(mixed[..., 8:], alone[..., 8:], atol=1e-5)
    assert not torch.allclose(mixed[..., :8], alone[..., :8], atol=1e-3)


def test_a_conditioning_outside_its_part_of_the_run_does_nothing(model: Any) -> None:
    base, other = text(model, "a red circle"), text(model, "a blue square")
    (late,) = conditioning.ConditioningSetTimestepRange.execute(other, 0.999, 1.0).args
    (both,) = conditioning.ConditioningCombine.execute(base, late).args
    assert torch.allclose(ksampler(model, steps=1, positive=both), ksampler(model, steps=1, positive=base), atol=1e-5)


def test_tokens_are_appended(model: Any) -> None:
    base, other = text(model, "a red circle"), text(model, "a blue square")
    (longer,) = conditioning.ConditioningConcat.execute(base, other).args
    assert torch.equal(longer[0][0], torch.cat([base[0][0], other[0][0]], 1))
    assert longer[0][1] is not base[0][1]


@pytest.mark.parametrize("denoise", [1e-9, 1e-300, 5e-6])
def test_a_schedule_without_end_is_refused(denoise: float) -> None:
    with pytest.raises(ValueError, match="give at least 2e-05, or 0"):
        plain.check_schedule(20, denoise)
    for fine in (0.0, 2e-5, 1.0):
        plain.check_schedule(20, fine)
    plain.check_schedule(10_000, 0.01)
