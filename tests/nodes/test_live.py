"""Regions and words by a word's own attention, as nodes, on the demo model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_patchbay.ldm_patched.patches.addressing.frames import parse_frames
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.alignment import token_ids
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.live_mask import LiveMask
from attention_patchbay.ldm_patched.patches.reading.maps import captured
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler

from .conftest import NODES

PROMPT = "a red circle on the left and a blue square on the right"
MASK = {"after": 0.3, "threshold": 0.6, "smooth": 0.0, "then": "freeze", "map_blocks": "output"}
ACTS = {"strength": 1.0, "blocks": "all", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
STEPS = 6


@pytest.fixture(scope="module")
def demo() -> Any:
    with torch.inference_mode():
        yield NODES["PatchbayLoadDemoModel"].execute().result


def encoded(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(model: Any, clip: Any, prompt: str = PROMPT, seed: int = 3) -> dict[str, Any]:
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    return common_ksampler(model, seed, STEPS, 4.0, "euler", "normal", encoded(clip, prompt), encoded(clip, ""), latent)


def regional(demo: Any, word: str, **given: Any) -> Any:
    """Return the model with a region by a word, whose prompt is green."""
    model, clip, _ = demo
    other = encoded(clip, "a green circle on the left and a green square on the right")
    asked = {"conditioning": other, "clip": clip, "prompt": PROMPT, "word": word, "weight": 1.0, **MASK, **given}
    (regions,) = NODES["PatchbayLiveRegion"].execute(**asked).result
    widgets = {"base": 0.0, "overlap": "average", **ACTS}
    return NODES["PatchbayRegionalPrompt"].execute(model=model, regions=regions, **widgets).result[0]


def test_the_frozen_mask_is_what_a_capture_of_the_same_steps_makes_and_lies_on_the_object(demo: Any) -> None:
    model, clip, vae = demo
    others = [place for place in range(1, 14) if place != 3]  # behind the start, each of its 13 words is a token
    words = (Word("circle", (3,)), Word("the others", tuple(others)))
    where = Where.of("output", 0.0, 0.3, kind="cross")
    listening = attach(model, Capture(words, len(token_ids(clip, PROMPT)), where))
    (found,) = captured(listening, sample(listening, clip)["samples"])
    blocks = [(one.attention[:, 0] / one.calls).unflatten(-1, one.grid) for one in found.blocks.values()]
    large = [F.interpolate(one[None], (16, 16), mode="bicubic")[0].double() * len(one[0]) for one in blocks]
    mean = torch.stack(large).sum(0) / sum(len(one[0]) for one in blocks)
    own, other = mean.clamp(min=0.0)
    weighted = mean[0] * own / (own + other)
    expected = ((weighted - weighted.min()) / (weighted.max() - weighted.min())).float()

    patched = regional(demo, "circle")
    latent = sample(patched, clip)
    picture = vae.decode(latent["samples"])
    masks, previews, about = NODES["PatchbayLiveMasks"].execute(model=patched, latent=latent, images=picture).result
    shown = F.interpolate(expected[None, None], (128, 128), mode="bicubic")[0, 0]
    unsure = (shown - 0.6).abs() < 1e-4
    assert torch.equal(masks[0][~unsure], (shown > 0.6).float()[~unsure])
    assert masks.shape == (1, 128, 128) and about.startswith("circle: its mask, frozen at step 3, covers")
    assert torch.allclose(previews, picture * (0.25 + 0.75 * masks[..., None]), atol=1e-6)
    there = ((picture[0] - 1.0).abs().amax(-1) > 0.3) & (torch.arange(128) < 64)  # not white
    assert (masks[0].bool() & there).sum() / (masks[0].bool() | there).sum() > 0.4


def test_without_pictures_the_masks_have_the_size_of_the_pictures_and_lie_on_white(demo: Any) -> None:
    patched = regional(demo, "circle")
    latent = sample(patched, demo[1])
    masks, previews, _ = NODES["PatchbayLiveMasks"].execute(model=patched, latent=latent).result
    assert masks.shape == (1, 128, 128) and set(previews.unique().tolist()) == {0.25, 1.0}


def test_pictures_of_another_number_are_refused_and_of_another_size_give_masks_of_theirs(demo: Any) -> None:
    patched = regional(demo, "circle")
    latent = sample(patched, demo[1])
    asked = {"model": patched, "latent": latent}
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"images: {number} of them, but the run made 1 picture; link what the"):
            NODES["PatchbayLiveMasks"].execute(**asked, images=torch.ones(number, 128, 128, 3))
    large = torch.rand(1, 200, 160, 3)
    masks, previews, _ = NODES["PatchbayLiveMasks"].execute(**asked, images=large).result
    assert masks.shape == (1, 200, 160)
    assert torch.allclose(previews, large * (0.25 + 0.75 * masks[..., None]), atol=1e-6)


def test_words_act_where_another_word_draws(demo: Any) -> None:
    model, clip, _ = demo
    asked = {"model": model, "clip": clip, "prompt": PROMPT, "word": "circle", "words": "red", **MASK, **ACTS}
    (patched,) = NODES["PatchbayLiveWordMask"].execute(**asked).result
    assert not torch.equal(sample(patched, clip)["samples"], sample(model, clip)["samples"])
    assert "words red where circle draws on " in plan_of(patched).entries[-1].name
    (nothing,) = NODES["PatchbayLiveWordMask"].execute(**asked | {"threshold": 1.0}).result
    assert torch.equal(sample(nothing, clip)["samples"], sample(model, clip)["samples"])


def test_regions_against_each_others_words_part_the_picture(demo: Any) -> None:
    model, clip, vae = demo
    asked = {"conditioning": encoded(clip, "a green circle"), "clip": clip, "prompt": PROMPT, "weight": 1.0, **MASK}
    (chain,) = NODES["PatchbayLiveRegion"].execute(**asked, word="circle", against="square").result
    (chain,) = NODES["PatchbayLiveRegion"].execute(**asked, word="square", against="circle", regions=chain).result
    (patched,) = (
        NODES["PatchbayRegionalPrompt"].execute(model=model, regions=chain, base=0.0, overlap="average", **ACTS).result
    )
    latent = sample(patched, clip)
    masks, _, _ = NODES["PatchbayLiveMasks"].execute(model=patched, latent=latent).result
    assert torch.equal(masks[0] + masks[1], torch.ones_like(masks[0]))
    things = (vae.decode(latent["samples"])[0] - 1.0).abs().amax(-1) > 0.3  # not white
    assert masks[0, :, :64][things[:, :64]].mean() > 0.9 and masks[1, :, 64:][things[:, 64:]].mean() > 0.9
    given = {**asked, "word": "circle"}
    plain, empty = (LiveMask.asked(given | more) for more in ({}, {"against": " , "}))
    assert plain == empty and not plain.apart


def test_words_against_themselves_and_words_that_are_not_there_are_refused(demo: Any) -> None:
    asked = {"model": demo[0], "clip": demo[1], "prompt": PROMPT, "word": "circle", "words": "red", **MASK, **ACTS}
    for against, told in (("square, circle", "'circle' and 'square, circle' share words"), ("cross", "has no 'cross'")):
        with pytest.raises(ValueError, match=told):
            NODES["PatchbayLiveWordMask"].execute(**asked, against=against)


@pytest.mark.parametrize("node", ["PatchbayLiveRegion", "PatchbayLiveWordMask"])
def test_the_words_against_come_last_and_need_not_be_there(node: str) -> None:
    optional = NODES[node].GET_NODE_INFO_V1()["input"]["optional"]
    assert [*optional][-2:] == ["frames", "against"] and optional["against"][1]["default"] == ""


def test_a_word_that_the_prompt_lacks_is_named(demo: Any) -> None:
    with pytest.raises(ValueError, match="has no 'cross'; write the words as they stand in it"):
        regional(demo, "cross")
    asked = {"model": demo[0], "clip": demo[1], "prompt": PROMPT, **MASK, **ACTS}
    with pytest.raises(ValueError, match="has no 'green'"):
        NODES["PatchbayLiveWordMask"].execute(**asked | {"word": "circle", "words": "green"})


@pytest.mark.parametrize("node", ["PatchbayLiveRegion", "PatchbayLiveWordMask"])
def test_words_parted_by_commas_make_one_mask_and_the_widget_says_so(demo: Any, node: str) -> None:
    asked = {"clip": demo[1], "prompt": PROMPT, **MASK}
    one, other, both = (LiveMask.asked({**asked, "word": word}) for word in ("circle", "square", "circle, square"))
    (found,) = both.words
    assert set(found.positions) == {*one.words[0].positions, *other.words[0].positions}
    (word,) = (widget for widget in NODES[node].define_schema().inputs if widget.id == "word")
    assert "several, parted by commas, make one mask together" in str(vars(word))


@pytest.mark.parametrize("node", ["PatchbayLiveRegion", "PatchbayLiveWordMask"])
def test_wrong_settings_are_told_at_their_widget(node: str) -> None:
    given = {"word": "circle", **MASK}
    given |= {"words": "red", **ACTS} if node == "PatchbayLiveWordMask" else {}
    assert NODES[node].validate_inputs(**given) is True
    linked = dict.fromkeys(given)
    assert NODES[node].validate_inputs(**linked) is True
    wrong = {"word": " ,", "after": 0.0, "threshold": 2.0, "then": "melt", "map_blocks": "input:x"}
    for name, value in wrong.items():
        answer = NODES[node].validate_inputs(**given | {name: value})
        assert answer.widget == name, (name, answer)


def test_frames_are_those_of_the_region_and_wrong_ones_are_told_at_their_widget(demo: Any) -> None:
    _, clip, _ = demo
    asked = {"conditioning": encoded(clip, "a green circle"), "clip": clip, "prompt": PROMPT, "word": "circle", **MASK}
    (always,) = NODES["PatchbayLiveRegion"].execute(**asked, weight=1.0).result
    (chain,) = NODES["PatchbayLiveRegion"].execute(**asked, weight=1.0, regions=always, frames="0-50% fade 2").result
    assert [region.frames for region in chain] == [None, parse_frames("0-50% fade 2")]
    given = {"word": "circle", **MASK}
    assert NODES["PatchbayLiveRegion"].validate_inputs(**given, frames="8-") is True
    answer = NODES["PatchbayLiveRegion"].validate_inputs(**given, frames="12-5")
    assert answer.widget == "frames" and "'12-5' holds no frame" in answer


def test_a_chain_of_regions_can_have_both_kinds(demo: Any) -> None:
    _, clip, _ = demo
    other, mask = encoded(clip, "a green circle"), torch.ones(1, 4, 4)
    (chain,) = NODES["PatchbayRegion"].execute(conditioning=other, mask=mask, weight=1.0).result
    asked = {"conditioning": other, "clip": clip, "prompt": PROMPT, "word": "square", "weight": 2.0, **MASK}
    (chain,) = NODES["PatchbayLiveRegion"].execute(**asked, regions=chain).result
    assert [type(region.mask) for region in chain] == [torch.Tensor, LiveMask]
    assert chain[1].mask.where == Where.of("output", kind="cross") and chain[1].mask.schedule == Schedule()
