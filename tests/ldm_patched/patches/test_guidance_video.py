"""Guidance of a video model: its blocks attend within the frames and, under the same address, over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.self_attention_guidance import SelfAttentionGuidance
from attention_patchbay.ldm_patched.patches.methods.sliding_window_guidance import SlidingWindowGuidance
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers

from .. import tiny_video
from .models import draw, last_run

FRAMES, STEPS = 3, 2
MIDDLE = parse("middle")
OPTIONS = {"activations_shape": [FRAMES, 64, 4, 4]}
METHODS = [
    PerturbedGuidance(scale=1.0, where=Where(MIDDLE)),
    SmoothedGuidance(scale=1.0, where=Where(MIDDLE), blur=2.0),
    SlidingWindowGuidance(scale=1.0, where=Where(MIDDLE)),
    SelfAttentionGuidance(1.0, 1.0, 1.0, Where(MIDDLE)),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_video.write(tmp_path_factory.mktemp("video") / "svd.safetensors")


def sample(model: Any) -> torch.Tensor:
    image = draw(2, 1, 4, 8, 8)
    positive, negative = (
        [[context, {"concat_latent_image": latent}]]
        for context, latent in ((draw(1, 1, 1, 32), image), (torch.zeros(1, 1, 32), torch.zeros_like(image)))
    )
    noise = draw(0, FRAMES, 4, 8, 8)
    return samplers.sample(model, noise, positive, negative, 2.5, STEPS, "euler", "normal", 1.0, seed=0)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_it_guides_a_video(file: Path, method: Any) -> None:
    model = sd.load_unet(file)
    base, guided = sample(model), attach(model, method)
    out = sample(guided)
    assert torch.isfinite(out).all() and not torch.equal(out, base)
    assert " in 1 of 1 blocks" in report.text(last_run(guided))


@pytest.mark.parametrize("method", METHODS[1:3], ids=lambda method: method.name)
def test_attention_over_time_is_left_as_it_is(method: Any) -> None:
    q, k, v = (draw(seed, 16, 2, FRAMES, 4) for seed in range(3))
    out = method.weak_attend(Site(OPTIONS, batch=16, tokens=FRAMES), q, k, v, lambda q, k, v: q + k * v)
    assert torch.equal(out, q + k * v)


def test_frames_are_told_from_pixels_and_windows() -> None:
    assert Site(OPTIONS, batch=16, tokens=FRAMES).over_time
    assert not Site(OPTIONS, batch=FRAMES, tokens=16).over_time
    assert not Site(OPTIONS, batch=FRAMES, tokens=8).over_time  # merged tokens
    assert not Site(OPTIONS, batch=6, tokens=8, piece=(2, 4)).over_time
    assert not Site(OPTIONS, batch=16, tokens=FRAMES, cut=True).over_time


def test_layers_inside_a_window_are_told_its_size() -> None:
    seen = []

    def inner(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, site: Site, /) -> torch.Tensor:
        seen.append((q.shape[2], site.piece))
        return v

    v = draw(0, 2, 2, 6 * 4, 4)
    site = Site({"activations_shape": [2, 8, 6, 4]}, batch=2, tokens=6 * 4)
    out = SlidingWindowGuidance(size=0.5, overlap=0.0).weak_attend(site, v, v, v, inner)
    assert seen == [(6, (3, 2))] * 4 and torch.allclose(out, v)
