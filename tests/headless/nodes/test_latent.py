"""Latent nodes: sizes, and what they leave as it is. The numbers are compared with ComfyUI's in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.headless.nodes import latent as nodes
from attention_patchbay.ldm_patched.sampling.sample import prepare_noise

LATENT = {"samples": torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0)), "batch_index": [1, 2]}


def upscaled(width: int, height: int, crop: str = "disabled") -> dict[str, Any]:
    return nodes.LatentUpscale.execute(LATENT, "bilinear", width, height, crop).args[0]


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (512, 256, (32, 64)),
        (8, 8, (8, 8)),
        (100, 133, (16, 12)),
        (0, 256, (32, 48)),
        (384, 0, (32, 48)),
        (0, 8, (8, 12)),
    ],
)
def test_a_size_in_pixels_becomes_one_in_latent_pixels(width: int, height: int, expected: tuple[int, int]) -> None:
    out = upscaled(width, height)
    assert out["samples"].shape[-2:] == expected
    assert out["batch_index"] == [1, 2]
    assert LATENT["samples"].shape[-2:] == (16, 24)


def test_no_size_leaves_the_latents_as_they_are() -> None:
    assert upscaled(0, 0) is LATENT


def test_the_crop_changes_what_is_seen() -> None:
    whole, middle = (upscaled(128, 128, crop)["samples"] for crop in ("disabled", "center"))
    assert torch.equal(middle, LATENT["samples"][..., 4:20])
    assert not torch.allclose(whole, middle)


def test_a_factor_resizes_both_sides() -> None:
    (out,) = nodes.LatentUpscaleBy.execute(LATENT, "nearest-exact", 1.5).args
    assert out["samples"].shape == (2, 4, 24, 36)


@pytest.mark.parametrize("shape", [(12, 10), (3, 12, 10), (3, 1, 12, 10)])
def test_a_mask_is_put_beside_the_samples(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape)
    (out,) = nodes.SetLatentNoiseMask.execute(LATENT, mask).args
    assert out["noise_mask"].shape == (1 if len(shape) == 2 else 3, 1, 12, 10)
    assert torch.equal(out["noise_mask"].flatten(), mask.flatten())
    assert "noise_mask" not in LATENT


@pytest.mark.parametrize(
    ("samples", "behavior", "expected"),
    [
        (LATENT, "fixed", [1, 1]),
        (LATENT, "random", None),
        ({"samples": LATENT["samples"]}, "fixed", [0, 0]),
        ({"samples": LATENT["samples"]}, "random", None),
    ],
)
def test_the_noise_of_a_batch_is_one_or_many(
    samples: dict[str, Any], behavior: str, expected: list[int] | None
) -> None:
    (out,) = nodes.LatentBatchSeedBehavior.execute(samples, behavior).args
    assert out.get("batch_index") == expected and out["samples"] is samples["samples"]
    assert LATENT["batch_index"] == [1, 2]
    noise = prepare_noise(out["samples"], 3, out.get("batch_index"))
    assert torch.equal(noise[0], noise[1]) == (behavior == "fixed")
