"""What scaling, skipping and sharing do to the demo model's pictures."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.demo.captions import PLACES, SHAPES, Thing
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.block_skip import BlockSkip
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.tools.demo.draws import draw_captions
from attention_patchbay.tools.demo.evaluate import Pictures, adherence, paint
from attention_patchbay.tools.demo.picture import RGB, draw

NO_COLOUR = [f"a {shape} in the center" for shape in SHAPES]
AROUND = [f"a {shape} {PLACES[place]}" for shape, place in zip(SHAPES, PLACES, strict=False)]


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_checkpoint(CHECKPOINT)


def painted(demo: Any, captions: list[str], *methods: Any, **settings: Any) -> Pictures:
    model, clip, vae = demo
    for method in methods:
        model = attach(model, method)
    with torch.inference_mode():
        return paint((model, clip, vae), captions, **settings)


def test_a_stronger_backbone_gives_more_contrast(demo: Any) -> None:
    weak, plain, strong = (
        painted(demo, NO_COLOUR * 2, BlockScale(factor), steps=10, cfg=1.0) for factor in (0.9, 1.0, 1.1)
    )
    assert weak.std() < plain.std() < strong.std(), (weak.std(), plain.std(), strong.std())


def test_skipping_the_self_attention_of_the_finest_blocks_makes_fewer_pictures_right(demo: Any) -> None:
    captions = draw_captions(20, 5)

    def right(strength: float) -> int:
        skip = BlockSkip("self", strength, Where(parse("output:2-3")))
        return adherence(captions, painted(demo, captions, skip, steps=6, cfg=1.0))["all"]["right"]  # type: ignore[no-any-return]

    whole, skipped = right(0.0), right(1.0)
    assert skipped <= whole - 2, (whole, skipped)


def ink(picture: Any) -> Any:
    """Return the mean colour of what is not background."""
    return picture[picture.min(-1) < 0.7].mean(0)


def spread(pictures: Pictures) -> float:
    """Return how far the colours lie from the first of their batch of four, on average."""
    colours = [ink(picture) for picture in pictures]
    return float(np.mean([np.linalg.norm(colours[i] - colours[i // 4 * 4]) for i in range(len(colours)) if i % 4]))


def test_aligned_pictures_have_more_equal_colours(demo: Any) -> None:
    apart, aligned = (
        painted(demo, NO_COLOUR * 4, method, steps=6, batch=4)
        for method in (StyleAligned(strength=0.0), StyleAligned())
    )
    assert spread(aligned) < 0.95 * spread(apart), (spread(aligned), spread(apart))


def test_a_reference_brings_its_colour(demo: Any) -> None:
    def distances(pictures: Pictures, colour: str) -> list[float]:
        return [float(np.linalg.norm(ink(one) - np.array(RGB[colour]))) for one in pictures]

    unreferred, plain, referred = painted(demo, AROUND, steps=8), [], []
    for colour in ("red", "green", "yellow"):
        picture, _ = draw((Thing("square", colour, "center"),), random.Random(0))
        reference = Reference(demo[2].encode(torch.from_numpy(picture)[None]))
        plain += distances(unreferred, colour)
        referred += distances(painted(demo, AROUND, reference, steps=8), colour)
    assert np.mean(referred) < 0.95 * np.mean(plain), (np.mean(plain), np.mean(referred))
