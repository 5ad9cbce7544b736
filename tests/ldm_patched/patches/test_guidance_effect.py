"""What guidance does for the demo model: more of its pictures show what the caption says, or fewer what it must not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.sliding_window_guidance import SlidingWindowGuidance
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.methods.token_perturbation_guidance import TokenPerturbationGuidance
from attention_patchbay.tools.demo.draws import draw_captions
from attention_patchbay.tools.demo.evaluate import adherence, paint
from attention_patchbay.tools.demo.judge import look

CAPTIONS = draw_captions(20, 6)


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    with torch.inference_mode():
        yield load_checkpoint(CHECKPOINT)


def right(demo: Any, patcher: Any) -> int:
    _, clip, vae = demo
    return adherence(CAPTIONS, paint((patcher, clip, vae), CAPTIONS, steps=6, cfg=1.0))["all"]["right"]


@pytest.fixture(scope="module")
def plain(demo: Any) -> int:
    return right(demo, demo[0])


@pytest.mark.parametrize(
    "guidance",
    [
        SmoothedGuidance(scale=3.0, where=Where()),
        SlidingWindowGuidance(scale=2.0, size=0.25),
        TokenPerturbationGuidance(scale=4.0, where=Where()),
    ],
    ids=["smoothed", "sliding", "shuffled"],
)
def test_it_makes_more_pictures_right(demo: Any, guidance: Any, plain: int) -> None:
    better = right(demo, attach(demo[0], guidance))
    assert better >= plain + 2, (plain, better)


def test_normalized_guidance_avoids_a_colour_without_a_negative_side(demo: Any) -> None:
    model, clip, vae = demo

    def yellow(patcher: Any) -> int:
        pictures = paint((patcher, clip, vae), ["a circle on the left"] * 20, steps=10, cfg=1.0)
        return sum(any(thing.colour == "yellow" for thing in look(picture)) for picture in pictures)

    plain = yellow(model)
    avoided = yellow(attach(model, NormalizedGuidance(clip.encode("a yellow circle on the left"))))
    assert avoided <= plain - 3, (plain, avoided)
