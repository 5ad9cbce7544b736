"""Captured attention: the formula, what is added up, that nothing changes, and that maps fall on the objects."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_patchbay.ldm_patched.demo import CHECKPOINT, LATENT_SIZE
from attention_patchbay.ldm_patched.demo.captions import COLOURS, SHAPES
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.gathering import Heard, Sums
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.stack import split
from attention_patchbay.ldm_patched.patches.methods import capture
from attention_patchbay.ldm_patched.patches.methods.alignment import token_ids
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word, word_weights
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.point_capture import PointCapture
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.words import locate
from attention_patchbay.ldm_patched.patches.reading.heatmap import alongside, view
from attention_patchbay.ldm_patched.patches.reading.maps import Gathered, captured, gathered_in, heat
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler

from .models import BLOCKS, STEPS, draw, last_run, patcher, run

WORDS = (Word("one", (1,)), Word("two three", (2, 3)))


def only(model: Any) -> Gathered:
    """Return what the one capture of a model gathered."""
    (found,) = gathered_in(last_run(model))
    return found


def test_probabilities_are_columns_of_the_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "SCORES", 64)  # many slices
    q, k = draw(1, 2, 10, 12), draw(2, 2, 7, 12)
    found, entropy, _ = word_weights(*(split(x, 3) for x in (q, k)), [(1,), (2, 3), ()])
    for i, columns in enumerate([(1,), (2, 3), ()]):
        for b in range(2):
            expected = torch.zeros(10, dtype=torch.float64)
            for head in range(3):
                one, other = (x[b, :, 4 * head : 4 * head + 4].double() for x in (q, k))
                expected += (one @ other.T / 2.0).softmax(-1)[:, list(columns)].sum(-1) / 3
            assert (found[i, b].double() - expected).abs().max() < 1e-6
    weights = (q[:, :, 4:8].double() @ k[:, :, 4:8].double().transpose(1, 2) / 2.0).softmax(-1)
    assert abs(float(entropy[1]) + float((weights * weights.log()).sum(-1).mean())) < 1e-6


def test_nothing_changes_and_every_block_and_step_is_in() -> None:
    model = attach(patcher(), Capture(WORDS, 7))
    assert torch.equal(run(model), run(patcher()))
    found = only(model)
    assert found.listener.labels == ("one", "two three") and {str(block) for block in found.blocks} == set(BLOCKS)
    assert all(sums.calls == STEPS and sums.attention.shape[:2] == (2, 1) for sums in found.blocks.values())
    run(model, steps=1)
    assert only(model).blocks.keys() == found.blocks.keys()
    assert {sums.calls for sums in only(model).blocks.values()} == {1}


def test_steps_and_blocks_add_up_to_the_same() -> None:
    model = attach(patcher(), Capture(WORDS, 7))
    run(model)
    found = only(model)
    assert {step for step, _ in found.steps} == set(range(1, STEPS + 1))
    for grid in {sums.grid for sums in found.blocks.values()}:
        by_block = sum(sums.attention for sums in found.blocks.values() if sums.grid == grid)
        by_step = sum(sums.attention for (_, here), sums in found.steps.items() if here == grid)
        assert torch.allclose(torch.as_tensor(by_block), torch.as_tensor(by_step), atol=1e-5)


def test_each_step_is_shown_in_the_node() -> None:
    shown: list[tuple[str, int, list[str]]] = []

    def show(node: str, step: int, found: Any, args: Any) -> None:
        shown.append((node, step, [label for heard in found for label in heard.listener.labels]))
        assert all(sums.attention.shape[0] == len(one.labels) for one, kept, _ in found for sums in kept)
        assert args["denoised"].shape == (1, 4, 8, 8)

    model = attach(patcher(), PointCapture(((0.5, 0.5),), Where(parse("middle"))))
    model = attach(model, Capture(WORDS, 7, Where(parse("input:1")), node="12"), Host(show=show))
    assert torch.equal(run(model), run(patcher()))
    assert shown == [("12", step, ["0.5 0.5", "one", "two three"]) for step in range(1, STEPS + 1)]


def test_sides_and_heads_are_apart() -> None:
    kept = {}
    for side in ("positive", "negative"):
        for heads in ((), (0,), (1,), (0, 1, 40)):
            model = attach(patcher(), Capture(WORDS, 7, Where(parse("middle")), side=side, heads=heads))
            run(model, steps=1)
            (kept[side, heads],) = only(model).blocks.values()
    for side in ("positive", "negative"):
        mean = (kept[side, (0,)].attention + kept[side, (1,)].attention) / 2
        assert torch.allclose(mean, kept[side, (0, 1, 40)].attention, atol=1e-6)
        assert len(kept[side, (0, 1, 40)].entropy) == 2 and len(kept[side, (1,)].entropy) == 1
    assert not torch.allclose(kept["positive", ()].attention, kept["negative", ()].attention, atol=1e-4)
    model = attach(patcher(), Capture(WORDS, 7, heads=(40,)))
    run(model)
    with pytest.raises(ValueError, match=r"heads \(40,\): a block has"):
        gathered_in(last_run(model))


def test_a_window_and_its_curve_weight_the_steps() -> None:
    late = attach(patcher(), Capture(WORDS, 7, Where(parse("middle"), Schedule(0.5, 1.0))))
    run(late)
    (sums,) = only(late).blocks.values()
    assert 0 < sums.calls < STEPS


def test_it_listens_to_the_prompt_behind_other_methods() -> None:
    """Tokens that another method appends, or takes away, are not counted for a word."""
    plain = attach(patcher(), Capture(WORDS, 7, Where(parse("input:1"))))
    run(plain, steps=1)
    expected = next(iter(only(plain).blocks.values())).attention
    for method in (NormalizedGuidance(draw(9, 1, 5, 16)), WordMask((5,), torch.ones(1, 4, 4), 7, strength=0.5)):
        for order in (0, 1):
            methods = [method, Capture(WORDS, 7, Where(parse("input:1")))]
            model = patcher()
            for one in methods if order else reversed(methods):
                model = attach(model, one)
            run(model, steps=1)
            found = next(iter(only(model).blocks.values()))
            assert torch.allclose(found.attention, expected, atol=1e-5), (method.name, order)


def test_little_is_kept() -> None:
    model = attach(patcher(), Capture(tuple(Word(str(i), (i,)) for i in range(7)), 7))
    run(model)
    kept = last_run(model).gathered.values()  # type: ignore[union-attr]
    shares = [sums for entry in kept for (place, _), sums in entry.items() if place == ("shares", (1, 2))]
    assert [one.attention.shape for one in shares] == [(7, 1, 2)]
    sizes = [sums.attention.nbytes for entry in kept for (place, _), sums in entry.items() if place[0] != "shares"]
    grids = {sums.grid for entry in kept for (place, _), sums in entry.items() if place[0] != "shares"}
    assert len(sizes) == len(BLOCKS) + STEPS * len(grids)
    assert max(sizes) <= 7 * 64 * 4  # words, tokens, float32


def test_of_the_other_words_one_small_map_is_kept() -> None:
    """It is the mean of what a capture that names the word gets from each call, and whoever names it gets the same."""
    others = (Word("four", (4,)), Word("five six", (5, 6)))
    named, model = (attach(patcher(), one) for one in (Capture(others, 7), Capture(WORDS, 7, others=others)))
    plain = attach(patcher(), Capture(WORDS, 7))
    for one in (named, model, plain):
        run(one)
    (small,) = only(model).others
    assert small.attention.shape == (2, 1, 16 * 16) and small.calls == STEPS * len(BLOCKS)
    whole = [
        F.interpolate(sums.attention.unflatten(-1, sums.grid), (16, 16), mode="bilinear").flatten(-2)
        for sums in only(named).blocks.values()
    ]
    assert torch.allclose(small.attention, torch.stack(whole).sum(0), atol=1e-5)
    for block, sums in only(plain).blocks.items():
        assert torch.equal(sums.attention, only(model).blocks[block].attention)


def test_frames_and_other_words_reach_the_page() -> None:
    attention = torch.arange(40.0).repeat_interleave(4).reshape(1, 40, 4)
    sums, small = Sums(attention, torch.zeros(1), (2, 2), 1, 40), Sums(attention[:, :, :1], torch.zeros(1), (1, 1), 1)
    shown = view(
        [Heard(Capture(WORDS[:1], 7, others=(Word("of", (4,)),)), [sums], [small])], (2, 2), torch.rand(158, 2, 2, 3)
    )
    assert shown["frames"] == 40 and shown["pictures"] == 32 == len(shown["images"])
    assert shown["shown"][0] == 1 and shown["shown"][-1] == 40 and shown["height"] == 32
    assert shown["low"][0] == [float(number - 1) for number in shown["shown"]]
    assert shown["others"]["labels"] == ["of"] and shown["others"]["low"] == shown["low"]


def test_each_frame_of_a_latent_lies_on_a_frame_that_it_stands_for() -> None:
    """Two videos of three frames in the latent, 0 | 1-4 | 5-8 of each nine that were decoded."""
    images = torch.arange(18.0).reshape(18, 1, 1, 1).expand(-1, 2, 2, 3)
    assert alongside(images, 6, 3, range(6))[:, 0, 0, 0].tolist() == [0, 4, 8, 9, 13, 17]
    assert alongside(images, 6, 3, (1, 5))[:, 0, 0, 0].tolist() == [4, 17]
    assert torch.equal(alongside(images[:6], 6, 3, range(6)), images[:6])


@pytest.mark.parametrize(("images", "frames", "wanted"), [(3, 1, "6 pictures"), (7, 1, "6 pictures"), (7, 3, "2 of 3")])
def test_images_of_another_number_are_refused(images: int, frames: int, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"images: {images} of them, but the run made {wanted}"):
        alongside(torch.zeros(images, 2, 2, 3), 6, frames, range(6))


def test_what_was_not_captured_is_an_error() -> None:
    with pytest.raises(ValueError, match="captures no attention; put Capture Attention before"):
        captured(patcher(), torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="no run is known that gave this latent"):
        captured(attach(patcher(), Capture(WORDS, 7)), torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match="nothing was captured"):
        gathered_in(Run(plan_of(attach(patcher(), Capture(WORDS, 7)))))
    with pytest.raises(ValueError, match="'far' has the places"):
        Capture((Word("far", (7,)),), 7)
    with pytest.raises(ValueError, match="unknown side 'left'; choose one of positive, negative"):
        Capture(WORDS, 7, side="left")
    with pytest.raises(ValueError, match="heads are counted from 0, not -1"):
        Capture(WORDS, 7, heads=(-1,))


def test_maps_of_blocks_count_the_same_and_go_from_0_to_1() -> None:
    small = Sums(torch.tensor([[[0.0, 0.0, 0.0, 1.0]]]), torch.zeros(1), (2, 2), 1)
    large = Sums(torch.full((1, 1, 16), 8.0), torch.zeros(1), (4, 4), 4)
    found = heat([small, large], (8, 8))
    assert found.shape == (1, 1, 8, 8) and found.min() == 0.0 and found.max() == 1.0
    assert found[0, 0, 7, 7] == 1.0 and found[0, 0, 0, 0] < 0.1
    assert (heat([large], (8, 8)) == 0.0).all()


def test_the_map_of_a_word_falls_on_its_object() -> None:
    """Half of the maximum is the threshold; the mean over 100 pictures is in the help page."""
    overlaps, rng = [], random.Random(3)
    with torch.inference_mode():
        model, clip, vae = load_checkpoint(CHECKPOINT)
        for seed in range(8):
            colours, shapes = rng.sample(COLOURS, 2), rng.sample(SHAPES, 2)
            caption = f"a {colours[0]} {shapes[0]} on the left and a {colours[1]} {shapes[1]} on the right"
            word = Word(shapes[0], locate(clip, caption, shapes[0]))
            listening: Any = attach(model, Capture((word,), len(token_ids(clip, caption)), Where(parse("output:2-3"))))
            prompts = ([[clip.encode(text), {}]] for text in (caption, ""))
            latent = {"samples": torch.zeros(1, 4, LATENT_SIZE, LATENT_SIZE)}
            out = common_ksampler(listening, seed, 20, 4.0, "euler", "normal", *prompts, latent)
            there = (vae.decode(out["samples"])[0] - 1.0).abs().amax(-1) > 0.3  # not white
            there[:, 64:] = False
            mask = heat(only(listening).blocks.values(), (128, 128))[0, 0] >= 0.5
            overlaps.append(float((mask & there).sum() / (mask | there).sum()))
    assert sum(overlaps) / len(overlaps) >= 0.45, overlaps
