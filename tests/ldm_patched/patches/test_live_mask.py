"""Masks that words make of themselves: the map, when it holds, what uses it, and runs of every kind."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens
from attention_patchbay.ldm_patched.patches.methods.capture import Word
from attention_patchbay.ldm_patched.patches.methods.live_mask import LiveMask, share
from attention_patchbay.ldm_patched.patches.methods.live_word_mask import LiveWordMask
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.reading.live_masks import live_masks
from attention_patchbay.ldm_patched.patches.reading.manage import Selection, copy_patches, remove_patches
from attention_patchbay.ldm_patched.patches.reading.presets import from_json, preset_of, to_json
from attention_patchbay.ldm_patched.patches.record.plan import KEY, entries, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run, UsedMask
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .models import conditioning, draw, last_run, patcher
from .test_sides import Guider
from .test_views import net

STEPS, READY = 4, 3  # the step at which 40 % of the run lie behind
OTHER = draw(9, 1, 7, 16)
WORD = Word("cat", (2, 3))
MAPS = Where(parse("middle, output:0"))
LIVE = LiveMask((WORD,), 7, MAPS, after=0.4, threshold=0.5, smooth=0.0)
LATE = Where(schedule=Schedule(0.4, 1.0))


def sample(model: Any, noise: Tensor | None = None, sampler: str = "euler", callback: Any = None) -> Tensor:
    """Sample one or more latents of 8x8 with cfg 4."""
    noise = draw(0, 1, 4, 8, 8) if noise is None else noise
    prompts = conditioning(1), conditioning(2)
    return samplers.sample(model, noise, *prompts, 4.0, STEPS, sampler, "normal", 1.0, seed=0, callback=callback)


def used(model: Any) -> UsedMask:
    """Return the one mask of the last run of a model."""
    (found,) = last_run(model).masks.values()
    return found


def recorded(positions: Sequence[int] = WORD.positions) -> list[dict[str, Tensor]]:
    """Return what each step's attention of the middle and of output:0 gives some tokens, by block: (h, w), float64."""
    found: list[dict[str, list[Tensor]]] = []
    model = patcher()

    def listening(name: str) -> Any:
        def replaced(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            row, side = options["cond_or_uncond"].index(0), math.isqrt(q.shape[1])
            if name == "middle":
                found.append({})
            weights = [
                (q[row, :, s].double() @ k[row, :, s].double().T / 4.0).softmax(-1)
                for s in (slice(h * 16, h * 16 + 16) for h in range(q.shape[-1] // 16))
            ]
            here = torch.stack(weights).mean(0)[:, list(positions)].sum(-1).view(side, side)
            found[-1].setdefault(name, []).append(here)
            return attention_pytorch(q, k, v, q.shape[-1] // 16)

        return replaced

    for name, number in (("middle", 0), ("output", 0)):
        model.set_model_attn2_replace(listening(name), name, number)
    sample(model)
    return [{name: torch.stack(some).mean(0) for name, some in step.items()} for step in found]


def mean_of(steps: list[dict[str, Tensor]]) -> Tensor:
    """Return the mean map (1, 8, 8): one block in the middle, two in output:0, each counting by its side."""
    calls = {"middle": 1, "output": 2}
    large = [
        F.interpolate(one[None, None], (8, 8), mode="bicubic")[0] * calls[name] * len(one)
        for step in steps
        for name, one in step.items()
    ]
    return torch.stack(large).sum(0) / sum(calls[name] * len(one) for step in steps for name, one in step.items())


def to_one(heat: Tensor) -> Tensor:
    """Scale a map to 0..1."""
    return (heat - heat.min()) / (heat.max() - heat.min())


def by_hand(steps: list[dict[str, Tensor]]) -> Tensor:
    """Return the map (1, 8, 8) of 0 to 1."""
    return to_one(mean_of(steps))


def test_the_map_is_the_mean_of_the_words_softmax_weights_and_gathering_changes_nothing() -> None:
    steps, model = recorded(), attach(patcher(), LIVE)
    assert torch.equal(sample(model), sample(patcher())) and len(steps) == STEPS
    step, heat, mask = used(model)
    expected = by_hand(steps[: READY - 1])
    assert step == READY and (heat.double() - expected).abs().max() < 1e-5
    assert torch.equal(mask, (heat > 0.5).float()) and 0.0 < mask.mean() < 1.0
    text = report.text(last_run(model))
    share = f"its mask, frozen at step 3, covers {100 * float(mask.mean()):.1f} % of the picture"
    assert f"live mask of cat above 0.5 after 40%, freeze on middle, output:0: ran {3 * (READY - 1)} times" in text
    assert share in text


def test_a_growing_mask_is_of_all_steps_before_and_a_threshold_of_0_is_the_map() -> None:
    steps = recorded()
    model = attach(patcher(), LiveMask((WORD,), 7, MAPS, after=0.4, threshold=0.0, smooth=0.0, then="grow"))
    sample(model)
    step, heat, mask = used(model)
    assert step == STEPS and (heat.double() - by_hand(steps[: STEPS - 1])).abs().max() < 1e-5
    assert torch.equal(mask, heat) and "its mask, last made at step 4" in report.text(last_run(model))


@pytest.mark.parametrize("then", ["freeze", "grow"])
def test_the_map_is_weighted_by_what_the_word_gets_of_all_the_prompts_words(then: str) -> None:
    """Of steps before the one in which it is made alone, though calls of that step were gathered already."""
    others = (0, 1, 4, 6)
    own, rest = recorded(), recorded(others)
    live = dataclasses.replace(LIVE, others=(Word("a", others[:2]), Word("b", others[2:])), then=then)
    model = attach(patcher(), live)
    assert torch.equal(sample(model), sample(patcher()))
    made = READY if then == "freeze" else STEPS
    word, other = (mean_of(steps[: made - 1]) for steps in (own, rest))
    expected = to_one(word * word.clamp(min=0.0) / (word.clamp(min=0.0) + other.clamp(min=0.0)))
    step, heat, _ = used(model)
    assert step == made and (heat.double() - expected).abs().max() < 1e-5
    assert (heat.double() - to_one(word)).abs().max() > 1e-2


@pytest.mark.parametrize("then", ["freeze", "grow"])
def test_told_apart_from_another_word_the_mask_is_where_its_scaled_map_is_higher(then: str) -> None:
    own, rest = recorded(), recorded((0, 5))
    apart = dataclasses.replace(LIVE, others=(Word("dog", (0, 5)),), apart=True, then=then)
    model = attach(patcher(), apart)
    assert torch.equal(sample(model), sample(patcher()))
    made = READY if then == "freeze" else STEPS
    word, other = (by_hand(steps[: made - 1]) for steps in (own, rest))
    step, heat, mask = used(model)
    assert step == made and (heat.double() - (1.0 + word - other) / 2.0).abs().max() < 1e-5
    assert torch.equal(mask, (heat > 0.5).float()) and 0.0 < mask.mean() < 1.0
    assert f"live mask of cat against dog after 40%, {then}" in report.text(last_run(model))
    soft = dataclasses.replace(apart, threshold=0.0)
    assert torch.equal(soft.cut(heat), heat) and torch.equal(dataclasses.replace(apart, threshold=0.9).cut(heat), mask)


def test_the_masks_of_two_words_against_each_other_part_the_picture() -> None:
    dog = Word("dog", (0, 5))
    one = dataclasses.replace(LIVE, others=(dog,), apart=True)
    other = dataclasses.replace(LIVE, words=(dog,), others=(WORD,), apart=True)
    model = attach(attach(patcher(), one), other)
    sample(model)
    first, second = (found.mask for found in last_run(model).masks.values())
    assert torch.equal(first + second, torch.ones_like(first))


def test_where_no_word_gets_anything_the_share_is_nothing() -> None:
    nothing = torch.zeros(1, 2, 2)
    assert torch.equal(share(nothing, nothing), nothing)
    assert torch.equal(share(nothing + 0.25, nothing), nothing + 1.0)


def test_it_is_blurred_before_it_is_scaled() -> None:
    sharp = draw(3, 1, 5, 5)
    x = torch.arange(-2, 3, dtype=torch.float64)
    weights = torch.exp(-0.5 * (x / 0.5) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    expected = F.conv2d(F.pad(sharp[None].double(), (2, 2, 2, 2), mode="reflect"), kernel[None, None])[0]
    assert (LiveMask((WORD,), 7, smooth=0.1).smoothed(sharp).double() - expected).abs().max() < 1e-5


def at_grids(
    mask: Tensor, fine: str = "input:1, output:2-3", coarse: str = "input:3, middle, output:0-1"
) -> list[tuple[Tensor, Where]]:
    """Return the mask (1, 8, 8) for blocks of 8x8 tokens, and what those of 4x4 touch of it, in the window."""
    touched = mask.view(1, 4, 2, 4, 2).amax(dim=(2, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert not torch.equal(mask, touched)
    return [(one, Where(parse(some), LATE.schedule)) for one, some in ((mask, fine), (touched, coarse))]


def test_a_region_holds_from_then_on_as_with_the_mask_given() -> None:
    """Before, the run is that of the plain model, to the bit; after, that of a region with this mask in the window."""
    ours = attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),)))
    seen: dict[str, list[Tensor]] = {"live": [], "plain": []}
    out = sample(ours, callback=lambda step, x0, x, total: seen["live"].append(x0.clone()))
    plain = sample(patcher(), callback=lambda step, x0, x, total: seen["plain"].append(x0.clone()))
    same = [torch.equal(*pair) for pair in zip(*seen.values(), strict=True)]
    assert same == [True] * (READY - 1) + [False] * (STEPS - READY + 1)
    given = patcher()
    for mask, where in at_grids(used(ours).mask):
        given = attach(given, RegionalPrompt((Region(OTHER, mask),), where=where))
    assert torch.allclose(out, sample(given), atol=1e-4) and (out - plain).abs().max() > 1e-2
    assert [type(entry.value).__name__ for entry in entries(ours)] == ["LiveMask", "RegionalPrompt"]


def test_a_word_mask_holds_from_then_on_as_with_the_mask_given() -> None:
    ours = attach(patcher(), LiveWordMask((5,), LIVE, 7))
    given = patcher()
    for mask, where in at_grids(used_after(ours)):
        given = attach(given, WordMask((5,), mask, 7, where=where))
    assert torch.allclose(sample(ours), sample(given), atol=1e-4)
    assert (sample(ours) - sample(patcher())).abs().max() > 1e-3
    assert "words 5 where cat draws on all: ran" in report.text(last_run(ours))


def test_where_two_words_draw_alike_the_place_is_in_both_masks() -> None:
    apart = dataclasses.replace(LIVE, others=(Word("dog", (0, 5)),), apart=True)
    heat = torch.tensor([[[0.1, 0.5], [0.5, 0.9]]])
    assert apart.cut(heat).tolist() == [[[0.0, 1.0], [1.0, 1.0]]]
    assert (apart.cut(heat) + apart.cut(1.0 - heat)).min() == 1.0
    assert torch.equal(dataclasses.replace(apart, threshold=0.0).cut(heat), heat)


def used_after(model: Any) -> Tensor:
    sample(model)
    return used(model).mask


@pytest.mark.parametrize("changed", [{"threshold": 1.0}, {"after": 1.0}], ids=["empty", "too late"])
def test_without_a_mask_it_is_the_run_without_the_region(changed: dict[str, float]) -> None:
    live, base = LiveMask((WORD,), 7, MAPS, **{"after": 0.4, "smooth": 0.0, **changed}), sample(patcher())  # type: ignore[arg-type]
    for method in (RegionalPrompt((Region(OTHER, live),)), LiveWordMask((5,), live, 7)):
        model = attach(patcher(), method)
        assert torch.equal(sample(model), base)
    told = "covers 0.0 % of the picture" if "threshold" in changed else "it made no mask: no step lay behind 100% of"
    assert told in report.text(last_run(model))


def attach_and_run(method: Any) -> Any:
    model = attach(patcher(), method)
    sample(model)
    return model


def test_a_window_that_ends_before_the_mask_is_there_is_the_reason() -> None:
    early = Where(schedule=Schedule(0.0, 0.3))
    for method in (LiveWordMask((5,), LIVE, 7, where=early), RegionalPrompt((Region(OTHER, LIVE),), where=early)):
        model = attach(patcher(), method)
        assert torch.equal(sample(model), sample(patcher()))
        text = report.text(last_run(model))
        assert "its window ends before the mask is there of cat (from 40% of the run)\n" in text
    assert "never ran, its window" in report.text(last_run(attach_and_run(LiveWordMask((5,), LIVE, 7, where=early))))
    assert "its window" not in report.text(last_run(attach_and_run(LiveWordMask((5,), LIVE, 7))))


def test_neutral_settings_gather_nothing() -> None:
    region = (Region(OTHER, LIVE),)
    for neutral in (
        RegionalPrompt(region, strength=0.0),
        RegionalPrompt(region, 1.0),
        LiveWordMask((5,), LIVE, 7, 0.0),
    ):
        model = attach(patcher(), neutral)
        assert [entry.value for entry in entries(model)] == [neutral]
        assert torch.equal(sample(model), sample(patcher()))
    nothing = RegionalPrompt((Region(OTHER, LIVE, 0.0),))
    assert torch.equal(sample(attach(patcher(), nothing)), sample(patcher()))


def test_a_second_run_and_one_after_an_interrupted_one_start_anew() -> None:
    model, noises = (
        attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),))),
        [draw(seed, 1, 4, 8, 8) for seed in (0, 5)],
    )
    fresh = [sample(attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),))), noise) for noise in noises]

    def interrupt(step: int, *rest: Any) -> None:
        if step == READY:
            raise KeyboardInterrupt

    assert torch.equal(sample(model, noises[0]), fresh[0])
    with pytest.raises(KeyboardInterrupt):
        sample(model, noises[0], callback=interrupt)
    assert torch.equal(sample(model, noises[1]), fresh[1])
    assert not torch.allclose(fresh[0], fresh[1], atol=1e-2)


def test_each_picture_of_a_batch_has_a_mask_of_its_own() -> None:
    model = attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),)))
    noises = [draw(seed, 1, 4, 8, 8) for seed in (0, 5)]
    both = sample(model, torch.cat(noises))
    masks = used(model).mask
    for i, noise in enumerate(noises):
        assert torch.allclose(both[i : i + 1], sample(model, noise), atol=1e-3)
        assert torch.equal(masks[i : i + 1], used(model).mask)
    assert not torch.equal(masks[0], masks[1])


def test_sides_in_two_calls_are_as_in_one() -> None:
    class InTwo(Guider):
        """Predicts each side in a call of its own, the negative first."""

        def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> Tensor:
            (negative,) = self.predicted(["negative"], x, timestep, model_options)
            (positive,) = self.predicted(["positive"], x, timestep, model_options)
            return negative + 4.0 * (positive - negative)

    class InOne(Guider):
        """Predicts both sides in one call."""

        def predict_noise(self, x: Any, timestep: Any, model_options: Any, seed: Any = None) -> Tensor:
            positive, negative = self.predicted(["positive", "negative"], x, timestep, model_options)
            return negative + 4.0 * (positive - negative)

    outs, masks = [], []
    for kind in (InOne, InTwo):
        model = attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),)))
        guider = kind(model)
        guider.set_prompts(positive=conditioning(1), negative=conditioning(2))
        sigmas = samplers.sampler_sigmas(model, "euler", "normal", STEPS)
        noise = draw(0, 1, 4, 8, 8)
        outs.append(guider.sample(noise, torch.zeros(1, 4, 8, 8), samplers.sampler_object("euler"), sigmas, seed=0))
        masks.append(used(model))
    assert torch.allclose(*outs, atol=1e-3) and torch.allclose(masks[0].heat, masks[1].heat, atol=1e-4)
    assert masks[0].step == masks[1].step == READY


def test_all_calls_of_a_step_see_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = LiveMask._made
    monkeypatch.setattr(LiveMask, "_made", lambda self, step, *rest: made.append(step) or real(self, step, *rest))
    live = LiveMask((WORD,), 7, MAPS, after=0.4, then="grow")
    sample(attach(patcher(), RegionalPrompt((Region(OTHER, live),))), sampler="heun")
    assert made == [READY, STEPS]


def test_the_last_part_of_a_run_gathers_a_step_of_its_own() -> None:
    """As picture to picture and refiners do: it begins behind 40 % already."""
    model = attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),)))
    noise, prompts = draw(0, 1, 4, 8, 8), (conditioning(1), conditioning(2))
    samplers.sample(model, noise, *prompts, 4.0, STEPS, "euler", "normal", 0.4, seed=0, latent_image=noise)
    assert used(model).step == 2


def test_two_uses_share_what_gathers_and_lists_of_patches_keep_it() -> None:
    model = attach(attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),))), LiveWordMask((5,), LIVE, 7))
    names = ["LiveMask", "RegionalPrompt", "LiveWordMask"]
    assert [type(entry.value).__name__ for entry in entries(model)] == names
    copied = copy_patches(model, patcher())
    assert [type(entry.value).__name__ for entry in entries(copied)] == names
    assert torch.equal(sample(copied), sample(model))
    fewer, _ = remove_patches(copied, Selection(address=parse("middle")))
    sample(fewer)
    assert used(fewer).step == READY  # of what output:0 gathers
    alone, _ = remove_patches(copied, Selection(owner="live mask"))
    assert torch.equal(sample(alone), sample(patcher()))
    assert "never ran, nothing gathers the attention to cat any more" in report.text(last_run(alone))


def test_it_is_a_value_and_wrong_ones_are_refused() -> None:
    region = RegionalPrompt((Region(OTHER, LIVE),))
    assert pickle.loads(pickle.dumps(region)) == region and hash(LIVE) == hash(pickle.loads(pickle.dumps(LIVE)))
    for wrong in ({"after": 0.0}, {"threshold": 1.5}, {"smooth": -1.0}, {"then": "melt"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LiveMask((WORD,), 7, **wrong)
    with pytest.raises(ValueError, match="'cat' has the places"):
        LiveMask((WORD,), 3)
    with pytest.raises(AddressError, match="no block 'input:9'"):
        attach(patcher(), RegionalPrompt((Region(OTHER, LiveMask((WORD,), 7, Where(parse("input:9")))),)))


def test_masks_are_read_at_the_size_of_the_picture() -> None:
    model = attach(patcher(), RegionalPrompt((Region(OTHER, LIVE),)))
    ((told, mask),) = live_masks(model, sample(model), (64, 64))
    expected = F.interpolate(used(model).heat[None], (64, 64), mode="bicubic")[0] > 0.5
    assert told.startswith("cat: its mask, frozen at step 3, covers") and torch.equal(mask, expected.float())
    wanted = r"makes no mask of a word; put Region by Word \(with Regional Prompt\) or Word Mask by Word before"
    with pytest.raises(ValueError, match=wanted):
        live_masks(patcher(), torch.zeros(1, 4, 8, 8), (64, 64))
    never = attach(patcher(), LiveMask((WORD,), 7, after=1.0))
    with pytest.raises(ValueError, match="cat: it made no mask: no step lay behind 100%"):
        live_masks(never, sample(never), (64, 64))


def test_a_word_without_a_mask_takes_no_other_along() -> None:
    late = LiveMask((Word("dog", (4,)),), 7, MAPS, after=1.0)
    model = attach(attach(patcher(), LiveWordMask((5,), LIVE, 7)), LiveWordMask((6,), late, 7))
    alone = attach(patcher(), LiveWordMask((5,), LIVE, 7))
    ((_, expected),) = live_masks(alone, sample(alone), (64, 64))
    (cat, mask), (dog, empty) = live_masks(model, sample(model), (64, 64))
    assert cat.startswith("cat: its mask, frozen") and torch.equal(mask, expected) and mask.any()
    assert dog.startswith("dog: it made no mask") and torch.equal(empty, torch.zeros(1, 64, 64))


@pytest.mark.parametrize(
    "method", [LiveWordMask((5,), LIVE, 7, 0.0), RegionalPrompt((Region(OTHER, LIVE),), strength=0.0)]
)
def test_a_node_that_changes_nothing_gives_an_empty_mask(method: Any) -> None:
    model = attach(patcher(), method)
    ((told, mask),) = live_masks(model, sample(model), (64, 64))
    assert told == "cat: its node changes nothing with these settings, so it made no mask"
    assert torch.equal(mask, torch.zeros(1, 64, 64))
    ((told, mask),) = live_masks(attach(model, LIVE), sample(attach(model, LIVE)), (64, 64))
    assert told.startswith("cat: its mask") and mask.any()


# Transformers


# Shown while the run makes it


class Page:
    """A host that keeps what each node is shown, where anybody looks."""

    def __init__(self, looks: bool = True) -> None:
        self.looks, self.seen = looks, []  # type: ignore[var-annotated]
        self.host = Host(show_mask=self.show)

    def show(self, node: str, so_far: Any, args: Any) -> None:
        found = so_far() if self.looks else None
        assert args["denoised"].ndim == 4
        self.seen.append((node, found))

    def of(self, node: str) -> list[Any]:
        return [found for name, found in self.seen if name == node]


@pytest.mark.parametrize("uses", ["region", "words"])
@pytest.mark.parametrize("then", ["freeze", "grow"])
def test_each_step_shows_the_map_as_it_gathers_and_the_mask_that_is_used(then: str, uses: str) -> None:
    live, page, steps = dataclasses.replace(LIVE, then=then, node="16"), Page(), recorded()
    model = attach(patcher(), of_use(uses, live), page.host)
    assert torch.equal(sample(model), sample(attach(patcher(), of_use(uses, dataclasses.replace(live, node="")))))
    found = page.of("16")
    assert [one.step for one in found] == [1, 2, 3, 4]
    assert [one.since for one in found] == [0, 0, READY, READY + (then == "grow")]
    for one, count in zip(found, (1, 2, 2), strict=False):
        (sums,), wanted = one.heard.sums, by_hand(steps[:count]).float()
        assert torch.allclose(sums.attention.view(1, 8, 8), wanted, atol=1e-5)
        assert one.covers == pytest.approx([float((wanted > 0.5).float().mean())], abs=1e-6)
        assert one.heard.listener.labels == ("cat",) and sums.grid == (8, 8)
    (last,) = found[-1].heard.sums
    assert torch.equal(last.attention.view(1, 8, 8), used(model).heat)


def of_use(uses: str, live: LiveMask) -> Any:
    return RegionalPrompt((Region(OTHER, live),)) if uses == "region" else LiveWordMask((4,), live, 7)


def test_nothing_is_made_for_the_page_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = LiveMask._made
    monkeypatch.setattr(LiveMask, "_made", lambda self, step, *rest: made.append(step) or make(self, step, *rest))
    page = Page(looks=False)
    sample(attach(patcher(), of_use("region", dataclasses.replace(LIVE, node="16")), page.host))
    assert made == [READY] and [node for node, _ in page.seen] == ["16"] * STEPS


def test_all_nodes_of_one_mask_are_shown_it_and_it_is_gathered_once() -> None:
    masks = [dataclasses.replace(LIVE, node=node) for node in ("16", "17", "")]
    other, page = dataclasses.replace(LIVE, words=(Word("dog", (4,)),), node="18"), Page()
    assert masks[0] == masks[1] and hash(masks[0]) == hash(masks[1])
    model = attach(patcher(), RegionalPrompt(tuple(Region(OTHER, mask) for mask in (*masks, other))), page.host)
    sample(model)
    assert [type(entry.value).__name__ for entry in entries(model)] == ["LiveMask", "LiveMask", "RegionalPrompt"]
    assert len(page.of("16")) == len(page.of("17")) == len(page.of("18")) == STEPS and not page.of("")
    assert [
        torch.equal(one.heard.sums[0].attention, two.heard.sums[0].attention)
        for one, two in zip(page.of("16"), page.of("17"), strict=True)
    ] == [True] * STEPS
    assert not torch.equal(page.of("18")[-1].heard.sums[0].attention, page.of("16")[-1].heard.sums[0].attention)


def test_each_picture_of_a_batch_is_shown_and_a_second_pass_begins_anew() -> None:
    page = Page()
    model = attach(patcher(), of_use("words", dataclasses.replace(LIVE, node="16")), page.host)
    sample(model, draw(0, 3, 4, 8, 8))
    sample(model, draw(1, 1, 4, 12, 16))
    found = page.of("16")
    assert [one.step for one in found] == [1, 2, 3, 4] * 2 and [one.since for one in found] == [0, 0, READY, READY] * 2
    assert [len(one.covers) for one in found] == [3] * 4 + [1] * 4
    assert [one.heard.sums[0].grid for one in found] == [(8, 8)] * 4 + [(12, 16)] * 4
    assert [one.heard.sums[0].frames for one in found] == [1] * 8


def test_what_shows_a_mask_is_no_patch_and_no_setting() -> None:
    page = Page()
    models = [
        attach(patcher(), of_use("region", dataclasses.replace(LIVE, node=node)), page.host) for node in ("16", "")
    ]
    assert [str(part) for part in placed(models[0])] == [str(part) for part in placed(models[1])]
    assert plan_of(models[0]) == plan_of(models[1])
    limited = attach(patcher(), of_use("words", dataclasses.replace(LIVE, node="16")), page.host)
    text = to_json(preset_of(limited))
    assert "node" not in text and from_json(text) == preset_of(limited)
    old = text.replace('"then":', '"node": "", "then":')
    assert from_json(old) == preset_of(limited)
    (others,) = remove_patches(limited, Selection(slot="attn2"), page.host)[:1]
    sample(others)
    assert not page.seen


def transformer(method: Any, name: str = "Flux") -> Any:
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent)
    whole: Any = SimpleNamespace(diffusion_model=net(name, FAMILIES[name].blocks), model_sampling=sampling)
    return attach(ModelPatcher(whole, "cpu", "cpu", size=1), method)


def test_where_text_and_picture_attend_together_the_map_is_of_the_whole_softmax() -> None:
    live = LiveMask((Word("cat", (1, 2)),), 5, Where(), after=0.3, smooth=0.0)
    model = transformer(live)
    run = Run(plan_of(model), lambda percent: 1.0 - percent)  # type: ignore[arg-type]
    sigmas = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    weights = []
    for step in range(3):
        q, k, v = (draw(10 * step + part, 2, 2, 5 + 24, 8) for part in range(3))
        now = {**model.model_options["transformer_options"], KEY: run, TOKENS: Tokens(FAMILIES["Flux"], (1, 4, 6))}
        now |= {"block_type": "double", "block_index": 0, "cond_or_uncond": [1, 0]}
        now |= {"sigmas": sigmas[step : step + 1], "sample_sigmas": sigmas}
        run.enter_model()
        now[SLOT](attention_pytorch, q, k, v, 2, transformer_options=now, skip_reshape=True)
        scores = q[1].double() @ k[1].double().transpose(-1, -2) / math.sqrt(8)
        weights.append(scores.softmax(-1)[:, 5:, 1:3].sum(-1).mean(0).view(1, 4, 6))
    (found,) = run.masks.values()
    mean = torch.stack(weights[:2]).mean(0)
    expected = (mean - mean.min()) / (mean.max() - mean.min())
    assert found.step == 3 and (found.heat.double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "reason"), [("Hunyuan3Dv2", "tokens that are a picture"), ("PixArtMS", "cannot be patched")]
)
def test_families_without_a_picture_of_tokens_are_refused(name: str, reason: str) -> None:
    for method in (RegionalPrompt((Region(OTHER, LIVE),)), LiveWordMask((5,), LIVE, 7)):
        with pytest.raises(AddressError, match=reason):
            transformer(method, name)
