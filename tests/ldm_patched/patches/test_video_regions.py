"""Regions and masks over the time of a video, against attention by hand in float64 and whole runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.addressing.frames import Frames, parse_frames
from attention_patchbay.ldm_patched.patches.addressing.refused import Refused
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.at_tokens import at_tokens, during
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.engine.rows import ROWS, Columns
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import CONTEXT
from attention_patchbay.ldm_patched.patches.engine.timeline import WINDOW, Timeline
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.live_mask import LiveMask
from attention_patchbay.ldm_patched.patches.methods.live_word_mask import LiveWordMask
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.region_lora import RegionLora
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run, UsedMask
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .. import tiny_video
from .loras import entries
from .models import conditioning, draw, last_run, patcher
from .test_guidance_video import FRAMES, sample
from .test_views import DIM, HEADS, patched, softmax, split

GRID, SHOWN = (3, 4, 6), 9  # frames of the latent: 0 | 1-4 | 5-8 of the video
PIXELS = GRID[1] * GRID[2]
TOKENS_OF_IMAGE = 3 * PIXELS
OWN, FIRST, SECOND = 5, 4, 7  # tokens of the call's prompt and of two further ones
LEFT = torch.zeros(1, *GRID[1:])
LEFT[:, :, :3] = 1.0
EVERYWHERE = torch.ones(1, *GRID[1:])


def frames(text: str) -> Frames:
    found = parse_frames(text)
    assert found is not None
    return found


def given(text: int, rows: int = 2, images: int = TOKENS_OF_IMAGE) -> list[Tensor]:
    """Return q of the video and k, v of so many tokens of text."""
    return [draw(1, rows, HEADS, images, DIM), *(draw(seed, rows, HEADS, text, DIM) for seed in (2, 3))]


def called(method: Any, text: int, further: Any = None, rows: int = 2, **options: Any) -> tuple[Tensor, Run]:
    """Make one cross-attention call of Wan with positive rows, then as many negative ones, through the override."""
    model = patched(method, "WanModel")
    run = Run(plan_of(model))
    run.masks |= options.pop("masks", {})
    run.enter_model()
    count = options.pop("images", GRID[0])
    now = {
        **model.model_options["transformer_options"],
        KEY: run,
        TOKENS: Tokens(FAMILIES["WanModel"], (count, *GRID[1:]), time=Timeline(count, 4)),
        "block_type": "double",
        "block_index": 0,
        "cond_or_uncond": [0, 1],
        CONTEXT: draw(9, rows, OWN, 3),
        **({} if further is None else {ROWS: further}),
        **options,
    }
    out = now[SLOT](
        attention_pytorch, *given(text, rows, count * PIXELS), HEADS, transformer_options=now, skip_reshape=True
    )
    return split(out), run


def mixed(rows: int, shares: Tensor) -> Tensor:
    """Return by hand what the positive rows get with two further prompts of these shares (2, n)."""
    q, k, v = given(OWN + FIRST + SECOND, rows, shares.shape[1])
    out = softmax(q, k[:, :, :OWN], v[:, :, :OWN])
    ours = slice(0, rows // 2)
    places = slice(OWN, OWN + FIRST), slice(OWN + FIRST, None)
    first, second = (softmax(q[ours], k[ours, :, place], v[ours, :, place]) for place in places)
    a, b = shares.double()[:, None, None, :, None]
    out[ours] = (1 - a - b) * out[ours] + a * first + b * second
    return out


def close(out: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(out, wanted.float(), atol=2e-5, rtol=1e-4)


def two(first: str, last: str, masks: tuple[Tensor, Tensor] = (EVERYWHERE, EVERYWHERE)) -> RegionalPrompt:
    prompts = torch.zeros(1, FIRST, 3), torch.zeros(1, SECOND, 3)
    pairs = zip(prompts, masks, (first, last), strict=True)
    return RegionalPrompt(tuple(Region(tokens, mask, frames=frames(text)) for tokens, mask, text in pairs))


def regions_in_wan(method: RegionalPrompt, **options: Any) -> tuple[Tensor, Run]:
    number = 1 + len(method.needs)
    return called(method, OWN + FIRST + SECOND, Columns(OWN, ((number, FIRST), (number, SECOND))), **options)


@pytest.mark.parametrize(
    ("first", "last", "wanted"),
    [
        ("0-4", "5-8", ([1, 1, 0], [0, 0, 1])),
        ("0-50%", "50%-", ([1, 3.5 / 4, 0], [0, 0.5 / 4, 1])),
        ("0-4 fade 4", "5- fade 4", ([1, 1 - 1 / 8, 1 / 8], [0, 1 / 8, 1 - 1 / 8])),
        ("8", "0, 6-7", ([0, 0, 1 / 4], [1, 0, 2 / 4])),
    ],
)
def test_each_frame_of_a_wan_attends_to_the_prompt_of_its_time(first: str, last: str, wanted: Any) -> None:
    out, run = regions_in_wan(two(first, last))
    close(out, mixed(2, torch.tensor(wanted).repeat_interleave(PIXELS, 1)))
    assert any("decoded video, 0-8: of the 3 of the latent" in note for note in run.notes)


def test_time_and_place_multiply() -> None:
    out, _ = regions_in_wan(two("0-4", "0-4", (LEFT, 1.0 - LEFT)))
    left = torch.cat([LEFT.flatten(), LEFT.flatten(), torch.zeros(PIXELS)])
    right = torch.cat([1.0 - LEFT.flatten(), 1.0 - LEFT.flatten(), torch.zeros(PIXELS)])
    close(out, mixed(2, torch.stack([left, right])))


def test_time_and_the_place_where_a_word_draws_multiply() -> None:
    """A live mask has a picture for each frame of the latent."""
    drawn = torch.rand(3, *GRID[1:], generator=torch.Generator().manual_seed(4))
    word = LiveMask((Word("one", (1,)),), OWN, Where.of("all", kind="cross"))
    regions = [Region(torch.zeros(1, n, 3), word, frames=frames(text)) for n, text in ((FIRST, "0-4"), (SECOND, "5-"))]
    out, _ = regions_in_wan(RegionalPrompt(tuple(regions)), masks={1: UsedMask(1, drawn, drawn)})
    first, second = drawn.clone(), drawn.clone()
    first[2], second[:2] = 0.0, 0.0
    close(out, mixed(2, torch.stack([first.flatten(), second.flatten()])))


@pytest.mark.parametrize("count", [3, SHOWN])
def test_a_mask_may_have_a_picture_for_each_frame_of_the_video_or_of_the_latent(count: int) -> None:
    masks = torch.rand(count, *GRID[1:], generator=torch.Generator().manual_seed(1))
    empty = torch.zeros(1, *GRID[1:])
    both = two("0-", "0-", (masks, empty))
    out, _ = regions_in_wan(both)
    groups = masks if count == 3 else torch.stack([masks[0], masks[1:5].mean(0), masks[5:].mean(0)])
    close(out, mixed(2, torch.stack([groups.flatten(), torch.zeros(TOKENS_OF_IMAGE)])))


def test_as_many_masks_as_videos_are_one_for_each() -> None:
    out, _ = regions_in_wan(two("0-", "0-", (torch.cat([EVERYWHERE, 0 * EVERYWHERE]), 0 * EVERYWHERE)), rows=4)
    ones, none = torch.ones(TOKENS_OF_IMAGE), torch.zeros(TOKENS_OF_IMAGE)
    close(out[:1], mixed(4, torch.stack([ones, none]))[:1])
    close(out[1:], mixed(4, torch.stack([none, none]))[1:])


def test_a_context_window_sees_its_own_frames_of_the_ranges() -> None:
    window = SimpleNamespace(index_list=[1, 2], total_frames=3)
    out, _ = regions_in_wan(two("0-4", "5-8"), images=2, **{WINDOW: window})
    close(out, mixed(2, torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(PIXELS, 1)))


def test_a_mask_of_words_may_have_a_picture_for_each_frame() -> None:
    masks = torch.rand(3, *GRID[1:], generator=torch.Generator().manual_seed(2))
    out, _ = called(WordMask((1,), masks, OWN), OWN)
    q, k, v = given(OWN)
    left = [0, 2, 3, 4]
    wanted = softmax(q, k, v)
    share = masks.flatten().double()[:, None]
    wanted[:1] = share * wanted[:1] + (1 - share) * softmax(q[:1], k[:1, :, left], v[:1, :, left])
    close(out, wanted)


WORD = LiveMask((Word("one", (2,)),), OWN, Where.of("all", kind="cross"))


@pytest.mark.parametrize("live", [False, True])
def test_words_act_in_some_frames_of_a_mask(live: bool) -> None:
    masks = torch.rand(3, *GRID[1:], generator=torch.Generator().manual_seed(2))
    if live:
        out, _ = called(LiveWordMask((1,), WORD, OWN, frames="0-4 fade 4"), OWN, masks={1: UsedMask(1, masks, masks)})
    else:
        out, _ = called(WordMask((1,), masks, OWN, frames="0-4 fade 4"), OWN)
    q, k, v = given(OWN)
    left = [0, 2, 3, 4]
    wanted = softmax(q, k, v)
    share = (masks * torch.tensor([1.0, 1.0 - 1 / 8, 1 / 8])[:, None, None]).flatten().double()[:, None]
    wanted[:1] = share * wanted[:1] + (1 - share) * softmax(q[:1], k[:1, :, left], v[:1, :, left])
    close(out, wanted)


def test_a_mask_of_all_limits_words_to_frames_and_to_all_of_them_not_at_all() -> None:
    some = WordMask((1,), EVERYWHERE, OWN, frames="5-")
    assert not some.neutral and WordMask((1,), EVERYWHERE, OWN, frames=" ").neutral
    assert some.name == "words 1 within a mask in frames 5- on all"
    out, _ = called(some, OWN)
    q, k, v = given(OWN)
    wanted = softmax(q, k, v)
    early = slice(0, 2 * PIXELS)
    wanted[:1, :, early] = softmax(q[:1, :, early], k[:1, :, [0, 2, 3, 4]], v[:1, :, [0, 2, 3, 4]])
    close(out, wanted)


@pytest.mark.parametrize(
    "make",
    [
        lambda text: WordMask((1,), EVERYWHERE, OWN, frames=text),
        lambda text: LiveWordMask((1,), WORD, OWN, frames=text),
    ],
)
def test_frames_of_words_that_cannot_be_read_are_told_at_their_widget(make: Any) -> None:
    with pytest.raises(Refused, match="'12-5' holds no frame") as error:
        make("12-5")
    assert error.value.widgets == ("frames",)


def test_maps_of_words_are_those_of_each_frame() -> None:
    _, run = called(Capture((Word("one", (1,)), Word("two", (3, 4))), OWN), OWN, sigmas=torch.tensor([1.0]))
    q, k, _ = (x[:1].double() for x in given(OWN))
    weights = (q @ k.transpose(-1, -2) / DIM**0.5).softmax(-1).mean(1)[0].unflatten(0, GRID)  # (3, 4, 6, text)
    wanted = torch.stack([weights[..., 1], weights[..., 3] + weights[..., 4]]).flatten(2)
    kept = [sums for ((place, _), _), sums in run.gathered[1].items() if isinstance(place, tuple)]
    assert len(kept) == 1 and kept[0].frames == 3
    torch.testing.assert_close(kept[0].attention, wanted.float(), atol=1e-6, rtol=1e-5)


# A video UNet has its frames in the batch, and attends over time with its pixels in the batch


def test_places_of_attention_over_time_are_those_within_the_frames_turned() -> None:
    masks = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(3))
    options = {"activations_shape": [6, 8, 4, 6], "cond_or_uncond": [1, 0]}
    within = Site(options, "cross", 6, 24)
    over = Site(options, "cross", 2 * 24, 3)
    assert over.over_time and not within.over_time
    turned = masks.flatten(1).T.repeat(2, 1)  # pixels of each side by frames
    assert torch.equal(at_tokens(within, masks), masks.flatten(1).repeat(2, 1))
    assert torch.equal(at_tokens(over, masks), turned)
    device = torch.device("cpu")
    assert torch.equal(during(within, frames("1-"), device), torch.tensor([0.0, 1, 1] * 2)[:, None].expand(-1, 24))
    assert torch.equal(during(over, frames("1-"), device), torch.tensor([[0.0, 1, 1]]).expand(48, -1))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return sd.load_unet(tiny_video.write(tmp_path_factory.mktemp("video") / "svd.safetensors"))


@pytest.fixture(scope="module")
def base(video: Any) -> Tensor:
    return sample(video)


def near(out: Tensor, wanted: Tensor) -> bool:
    return bool((out - wanted).abs().max() < 1e-4 * wanted.abs().max())


ONES = torch.ones(1, 8, 8)
PROMPT, OTHER = draw(1, 1, 1, 32), draw(5, 1, 1, 32)


def test_the_samplers_own_prompt_in_all_ranges_gives_its_own_video(video: Any, base: Tensor) -> None:
    for ranges in (("0", "1-"), ("0-50% fade 1", "50%- fade 1")):
        some = tuple(Region(PROMPT, ONES, frames=frames(text)) for text in ranges)
        assert near(sample(attach(video, RegionalPrompt(some))), base)
    other = attach(video, RegionalPrompt((Region(OTHER, ONES, frames=frames("0")),)))
    assert not near(sample(other), base)
    assert any("as the latent has them, 0-2" in note for note in last_run(other).notes)


def test_all_frames_are_no_frames_and_masks_of_frames_are_ranges(video: Any) -> None:
    always = sample(attach(video, RegionalPrompt((Region(OTHER, ONES),))))
    assert torch.equal(sample(attach(video, RegionalPrompt((Region(OTHER, ONES, frames=frames("0-100%")),)))), always)
    ranged = sample(attach(video, RegionalPrompt((Region(OTHER, ONES, frames=frames("1-")),))))
    masks = torch.stack([0 * ONES[0], ONES[0], ONES[0]])
    assert torch.equal(sample(attach(video, RegionalPrompt((Region(OTHER, masks),)))), ranged)
    assert not near(ranged, always)


def test_neutral_settings_are_bit_equal(video: Any, base: Tensor) -> None:
    region = Region(OTHER, ONES, frames=frames("0"))
    for neutral in (RegionalPrompt((region,), strength=0.0), RegionalPrompt((region,), 1.0)):
        assert torch.equal(sample(attach(video, neutral)), base)


def test_frames_that_the_video_has_not_are_refused_in_the_run(video: Any) -> None:
    for text in ("3", "0-3"):
        with pytest.raises(ValueError, match=f"there is no frame 3, the video has the frames 0-{FRAMES - 1}"):
            sample(attach(video, RegionalPrompt((Region(OTHER, ONES, frames=frames(text)),))))


# A batch of pictures is what a motion module makes a video of


def pictures(model: Any, count: int) -> Tensor:
    noise = draw(0, count, 4, 8, 8)
    sides = conditioning(1), conditioning(2)
    return samplers.sample(model, noise, *sides, 4.0, 2, "euler", "normal", 1.0, seed=0)


def test_pictures_of_a_batch_are_frames_for_prompts_and_loras() -> None:
    plain, tokens = pictures(patcher(), 3), draw(9, 1, 5, 16)
    lora = RegionLora(LoraFile.of("style", entries(lambda path: "emb" not in path)), 0.8)
    for loras in ((), (lora,)):
        always = pictures(attach(patcher(), RegionalPrompt((Region(tokens, ONES, loras=loras),))), 3)
        ranged = Region(tokens, ONES, loras=loras, frames=frames("1-"))
        out = pictures(attach(patcher(), RegionalPrompt((ranged,))), 3)
        assert near(out[:1], plain[:1]) and near(out[1:], always[1:])
        assert not near(always[:1], plain[:1])


def test_a_reference_picture_has_no_time() -> None:
    shared, tokens = attach(patcher(), Reference(draw(4, 1, 4, 8, 8))), draw(9, 1, 5, 16)
    always, all_frames, some = (
        pictures(attach(shared, RegionalPrompt((Region(tokens, ONES, frames=parse_frames(text)),))), 2)
        for text in ("", "0-", "1-")
    )
    assert torch.equal(all_frames, always)
    assert near(some[1:], always[1:]) and not near(some[:1], always[:1])


def test_one_picture_has_no_frames() -> None:
    model = attach(patcher(), RegionalPrompt((Region(draw(9, 1, 5, 16), ONES, frames=frames("0-50%")),)))
    with pytest.raises(ValueError, match="frames 0-50%: there is one picture and no video; leave frames empty"):
        pictures(model, 1)
