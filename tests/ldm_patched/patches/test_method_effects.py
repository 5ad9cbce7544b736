"""What methods do to the demo model's pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT, LATENT_SIZE
from attention_patchbay.ldm_patched.demo.captions import COLOURS, SHAPES
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from attention_patchbay.tools.demo.judge import look


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    with torch.inference_mode():
        yield load_checkpoint(CHECKPOINT)


def seen(demo: Any, model: Any, caption: str, seed: int, cfg: float = 4.0) -> list[Any]:
    """Paint one picture and return the objects in it."""
    _, clip, vae = demo
    prompts = ([[clip.encode(text), {}]] for text in (caption, ""))
    latent = {"samples": torch.zeros(1, 4, LATENT_SIZE, LATENT_SIZE)}
    with torch.inference_mode():
        out = common_ksampler(model, seed, 10, cfg, "euler", "normal", *prompts, latent)
        return look(vae.decode(out["samples"]).numpy()[0])


def test_regional_prompts_put_the_colour_where_it_belongs(demo: Any) -> None:
    model, clip, _ = demo
    left = torch.zeros(1, 128, 128)
    left[..., :64] = 1.0
    rng, right = random.Random(7), 0
    for seed in range(12):
        colours, shapes = rng.sample(COLOURS, 2), (rng.choice(SHAPES), rng.choice(SHAPES))
        texts = (f"a {c} {shapes[0]} on the left and a {c} {shapes[1]} on the right" for c in colours)
        regions = tuple(Region(clip.encode(text), mask) for text, mask in zip(texts, (left, 1 - left), strict=True))
        caption = f"a {shapes[0]} on the left and a {shapes[1]} on the right"
        things = seen(demo, attach(model, RegionalPrompt(regions)), caption, seed)
        placed = {place: {thing.colour for thing in things if thing.place == place} for place in ("left", "right")}
        right += placed == {"left": {colours[0]}, "right": {colours[1]}}
    assert right >= 11, right
