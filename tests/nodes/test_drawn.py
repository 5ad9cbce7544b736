"""Regional prompts that are drawn: the same run as by Prompt Region nodes with these masks, and what else it gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.areas import parse_areas
from attention_patchbay.ldm_patched.patches.addressing.frames import parse_frames
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler

from .conftest import NODES

REGIONS = "left -> a red circle on the left\n0.6 0 0.4 1 -> a blue square on the right"
WHOLE = "a circle on the left and a square on the right"


@pytest.fixture(scope="module")
def demo() -> Any:
    with torch.inference_mode():
        yield NODES["PatchbayLoadDemoModel"].execute().result


def drawn(demo: Any, **given: Any) -> Any:
    model, clip, _ = demo
    inputs = {"prompt": WHOLE, "negative": "", "regions": REGIONS, "soft": 0.0, "base": 0.2, **given}
    return (
        NODES["PatchbayDrawnRegions"]
        .execute(model=model, clip=clip, latent={"samples": torch.zeros(1, 4, 12, 20)}, **inputs)
        .result
    )


def sample(model: Any, positive: Any, negative: Any) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 4, 12, 20)}
    return common_ksampler(model, 3, 2, 4.0, "euler", "normal", positive, negative, latent)["samples"]


def test_it_is_the_chain_of_regions_with_these_masks(demo: Any) -> None:
    model, clip, _ = demo
    patched, positive, negative, regions, masks = drawn(demo)
    chain: tuple[Any, ...] = ()
    for area, mask in zip(parse_areas(REGIONS), masks, strict=True):
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(area.prompt))
        given = {"conditioning": encoded, "mask": mask[None], "weight": 1.0, "regions": chain}
        (chain,) = NODES["PatchbayRegion"].execute(**given).result
    widgets = {"overlap": "last on top", "strength": 1.0, "base": 0.2, "blocks": "all", "curve": "constant"}
    widgets |= {"start_percent": 0.0, "end_percent": 1.0}
    (by_hand,) = NODES["PatchbayRegionalPrompt"].execute(model=model, regions=chain, **widgets).result
    out = sample(patched, positive, negative)
    assert torch.equal(out, sample(by_hand, positive, negative))
    assert not torch.equal(out, sample(model, positive, negative)) and len(regions) == 2


def test_frames_behind_an_area_are_those_of_its_region(demo: Any) -> None:
    text = "left frames 0-50% fade 2 -> a red circle on the left\n1:1 frames 8- -> a | b\ntop -> c"
    model, positive, negative, regions, masks = drawn(demo, regions=text)
    assert [region.frames for region in regions] == [*map(parse_frames, ("0-50% fade 2", "8-", "8-", ""))]
    assert torch.equal(masks, drawn(demo, regions="left -> a\n1:1 -> a | b\ntop -> c")[4])
    with pytest.raises(ValueError, match="frames 0-50% fade 2: there is one picture and no video"):
        sample(model, positive, negative)


def test_the_masks_have_the_size_of_the_latent_and_soft_edges(demo: Any) -> None:
    masks = drawn(demo)[4]
    assert masks.shape == (2, 12, 20)
    assert torch.equal(masks[1, 0], torch.tensor([0.0] * 12 + [1.0] * 8))
    assert 0.0 < drawn(demo, soft=0.2)[4][0, 6, 10] < 1.0


def test_no_area_leaves_the_model_as_it_is(demo: Any) -> None:
    patched, positive, negative, regions, masks = drawn(demo, regions="# nothing yet")
    assert regions == () and not masks.any()
    assert torch.equal(sample(patched, positive, negative), sample(demo[0], positive, negative))


def test_a_wrong_text_is_told_at_its_widget() -> None:
    answer = NODES["PatchbayDrawnRegions"].validate_inputs(regions="left a red circle")
    assert answer.widget == "regions" and "'->' and a prompt are missing" in answer
