from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.attach import attach
from attention_patchbay.ldm_patched.patches.capture import Capture, Word
from attention_patchbay.nodes.capture import COLOURS, AttentionMaps, CaptureAttention, overlay
from attention_patchbay.nodes.demo import NODES as DEMO

LATENT = {"samples": torch.zeros(1, 4, 8, 8)}


@pytest.fixture
def listening(model: Any, run: Callable) -> Any:
    captured = attach(model, Capture((Word("one", (1,)), Word("two", (2,))), 7))
    run(captured)
    return captured


def maps(model: Any, **widgets: Any) -> Any:
    return AttentionMaps.execute(model=model, latent=LATENT, **{"threshold": 0.5, "opacity": 0.7, **widgets}).result


def test_there_is_a_heatmap_and_a_mask_for_each_word(listening: Any) -> None:
    heatmaps, masks, text = maps(listening)
    assert heatmaps.shape == (2, 64, 64, 3) and masks.shape == (2, 64, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert text.split("\n")[0].split()[:5] == ["block", "calls", "tokens", "one", "two"] and len(text.split("\n")) == 5
    _, soft, _ = maps(listening, threshold=0.0)
    assert soft.min() == 0.0 and soft.max() == 1.0 and torch.equal((soft >= 0.5).float(), masks)


def test_maps_lie_over_the_pictures_in_their_size(listening: Any) -> None:
    picture = torch.rand(1, 40, 24, 3)
    heatmaps, masks, _ = maps(listening, images=picture, opacity=0.0)
    assert masks.shape == (2, 40, 24) and torch.equal(heatmaps, picture.expand(2, -1, -1, -1))


def test_colours_run_from_the_first_to_the_last() -> None:
    painted = overlay(torch.tensor([[[0.0, 0.5, 1.0]]]), None, 1.0)
    assert torch.allclose(painted[0, 0], COLOURS[[0, 2, 4]])


def test_words_come_from_the_prompt() -> None:
    (loader,) = DEMO
    model, clip, _ = loader.execute().result
    widgets = {"blocks": "output", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    prompt = "a red circle on the left"
    given = {"model": model, "clip": clip, "prompt": prompt, **widgets}
    (patched,) = CaptureAttention.execute(words="red circle, left", **given).result
    assert patched is not model
    for words, message in (("square", "has no 'square'"), ("", "no words are given")):
        with pytest.raises(ValueError, match=message):
            CaptureAttention.execute(words=words, **given)
    assert CaptureAttention.validate_inputs(blocks="output:3", curve="linear") is True
    assert "cannot read" in str(CaptureAttention.validate_inputs(blocks="8"))
