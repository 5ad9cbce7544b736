"""Start noise and the KSampler node's function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler, fix_empty_latent_channels, prepare_noise

from ..tiny import conditioning, draw, patcher


def test_noise_is_one_draw_of_the_seed() -> None:
    assert torch.equal(prepare_noise(torch.zeros(2, 4, 8, 8), 5), draw(5, 2, 4, 8, 8))
    assert prepare_noise(torch.zeros(2, 4, 8, 8).half(), 5).dtype == torch.float16


def test_batch_index_takes_noise_from_places_in_a_larger_batch() -> None:
    generator = torch.Generator().manual_seed(5)
    places = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(5)]
    noise = prepare_noise(torch.zeros(3, 4, 8, 8), 5, [4, 1, 4])
    assert torch.equal(noise, torch.cat([places[4], places[1], places[4]]))


def test_empty_latents_get_the_models_channels() -> None:
    model = patcher()
    assert fix_empty_latent_channels(model, torch.zeros(2, 16, 8, 8)).shape == (2, 4, 8, 8)
    assert fix_empty_latent_channels(model, torch.zeros(2, 1, 8, 8)).shape == (2, 4, 8, 8)
    used = torch.ones(2, 1, 8, 8)
    assert fix_empty_latent_channels(model, used) is used


@pytest.fixture(scope="module")
def model() -> Any:
    return patcher()


def run(model: Any, latent: dict[str, Any], **options: Any) -> dict[str, Any]:
    return common_ksampler(model, 1, 4, 2.0, "euler", "normal", conditioning(1), conditioning(2), latent, **options)


def test_the_latent_dict_is_not_changed_and_its_entries_are_kept(model: Any) -> None:
    latent = {"samples": torch.zeros(1, 4, 8, 8), "note": "kept"}
    out = run(model, latent)
    assert out["note"] == "kept" and out["samples"].shape == (1, 4, 8, 8)
    assert torch.count_nonzero(latent["samples"]) == 0


def test_two_halves_of_a_schedule_make_the_whole(model: Any) -> None:
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    whole = run(model, empty)["samples"]
    first = run(model, empty, last_step=2)
    second = run(model, first, start_step=2, disable_noise=True)["samples"]
    torch.testing.assert_close(second, whole, rtol=1e-4, atol=1e-3)


def test_no_steps_left_gives_the_latent_back(model: Any) -> None:
    latent = {"samples": draw(1, 1, 4, 8, 8)}
    assert torch.equal(run(model, latent, denoise=0.0)["samples"], latent["samples"])
    assert torch.equal(run(model, latent, start_step=9)["samples"], latent["samples"])
