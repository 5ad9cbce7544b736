"""Prompt-to-prompt: the formula with explicit maps, the pairs, the windows, composition, and the demo model."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.demo.captions import COLOURS, SHAPES
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.stack import CONTEXT
from attention_patchbay.ldm_patched.patches.methods.alignment import token_ids
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.prompt_to_prompt import PromptToPrompt, pair
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from attention_patchbay.tools.demo.judge import look, segments
from torch import Tensor

from .maps import applied, attend, layer, maps, options
from .models import BLOCKS, STEPS, draw, last_run, patcher, unchanged

SOURCE = (0, 1, 2, 3, 9, 9, 9)
SWAP = (0, 1, 5, 3, 9, 9, 9)  # one word for another
ADDED = (0, 1, 7, 2, 3, 9, 9)  # a new word at 2: the source's 2, 3 and 4 are the edited prompt's 3, 4 and 5
BOTH_SIDES = options(1, 0)


def qkv(tokens: int = 7) -> tuple[Tensor, ...]:
    return draw(0, 8, 5, 8), draw(1, 8, tokens, 8), draw(2, 8, tokens, 8)


def edited_maps(weights: Tensor, stands_for: dict[int, int | None]) -> Tensor:
    """Return the maps of the batch after the edit: rows 4-7 are the positive side, in pairs."""
    out = weights.clone()
    for source, edited in ((4, 5), (6, 7)):
        for token, original in stands_for.items():
            out[edited, :, :, token] = weights[
                edited if original is None else source, :, :, token if original is None else original
            ]
    return out


@pytest.mark.parametrize(
    ("edited", "stands_for"),
    [(SWAP, {i: i for i in range(7)}), (ADDED, {0: 0, 1: 1, 2: None, 3: 2, 4: 3, 5: 4, 6: 5})],
    ids=["swap", "added"],
)
@pytest.mark.parametrize(("strength", "curve"), [(1.0, 1.0), (0.5, 1.0), (0.8, 0.5)])
def test_the_maps_of_the_source_are_those_of_the_edited_prompt(
    edited: tuple[int, ...], stands_for: dict[int, int | None], strength: float, curve: float
) -> None:
    q, k, v = qkv()
    method = PromptToPrompt(SOURCE, edited, strength=strength)
    out = layer(method, "attn2", curve).around(attend, q, k, v, BOTH_SIDES)
    own = maps(q, k)
    weights = torch.lerp(own, edited_maps(own, stands_for), strength * curve)
    assert (out - applied(weights, v)).abs().max() < 1e-6
    assert (applied(own, v) - applied(weights, v)).abs().max() > 1e-2


def test_words_of_another_number_share_the_map() -> None:
    q, k, v = qkv()
    out = layer(PromptToPrompt((0, 1, 2, 9, 9, 9, 9), (0, 5, 6, 7, 9, 9, 9)), "attn2").around(
        attend, q, k, v, BOTH_SIDES
    )
    own = maps(q, k)
    weights = edited_maps(own, {0: 0, 4: 3, 5: 4, 6: 5})
    for source, edited in ((4, 5), (6, 7)):
        for token in (1, 2, 3):
            weights[edited, :, :, token] = (own[source, :, :, 1] + own[source, :, :, 2]) / 3
    assert (out - applied(weights, v)).abs().max() < 1e-6


def test_an_inner_method_that_adds_something_adds_it_once() -> None:
    q, k, v = qkv()
    seen = draw(3, 8, 5, 8)

    def inner(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v) + seen

    edit = layer(PromptToPrompt(SOURCE, ADDED), "attn2")
    out = edit.around(inner, q, k, v, BOTH_SIDES)
    assert (out - seen - edit.around(attend, q, k, v, BOTH_SIDES)).abs().max() < 1e-6


@pytest.mark.parametrize("edited", [SWAP, ADDED])
def test_prompts_that_the_host_repeated_give_the_same(edited: tuple[int, ...]) -> None:
    q, k, v = qkv()
    edit = layer(PromptToPrompt(SOURCE, edited), "attn2")
    twice = edit.around(attend, q, k.repeat(1, 2, 1), v.repeat(1, 2, 1), BOTH_SIDES)
    assert (twice - edit.around(attend, q, k, v, BOTH_SIDES)).abs().max() < 1e-6
    other = {**BOTH_SIDES, CONTEXT: torch.cat([k, k.flip(1)], dim=1)}
    with pytest.raises(ValueError, match="another prompt stands behind"):
        edit.around(attend, q, k.repeat(1, 2, 1), v.repeat(1, 2, 1), other)


@pytest.mark.parametrize("first", [True, False])
def test_a_prompt_that_is_combined_with_the_pair_is_refused_in_either_order(first: bool) -> None:
    """Rows 0-3 are of one prompt and 4-7 of the other, both positive; the pair is as long as half of the context."""
    q, k, v = (x.repeat(1, times, 1) for x, times in zip(qkv(), (1, 2, 2), strict=True))
    other = torch.cat([k[:4, :7], k[:4, :7].flip(1)], dim=1)
    context = torch.cat([k[:4], other] if first else [other, k[4:]])
    both = {**options(0, 0), "uuids": ["a", "b"], CONTEXT: context}
    with pytest.raises(ValueError, match="Combine"):
        layer(PromptToPrompt(SOURCE, SWAP), "attn2").around(attend, q, k, v, both)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_self_attention_takes_the_maps_of_the_source(strength: float) -> None:
    q, k, v = draw(0, 8, 5, 8), draw(1, 8, 5, 8), draw(2, 8, 5, 8)
    out = layer(PromptToPrompt(SOURCE, SWAP, strength=strength), "attn1").around(attend, q, k, v, BOTH_SIDES)
    own = maps(q, k)
    weights = torch.lerp(own, edited_maps(own, {i: i for i in range(5)}), strength)
    assert (out - applied(weights, v)).abs().max() < 1e-6


def prompts() -> list[list[Any]]:
    return pair([[draw(1, 1, 7, 16), {}]], [[draw(3, 1, 7, 16), {}]])


def run(model: Any, batch: int = 2) -> Tensor:
    """Sample pairs of one noise with cfg 4."""
    noise = draw(0, 1, 4, 8, 8).expand(batch, -1, -1, -1).contiguous()
    negative = [[draw(2, 1, 7, 16), {}]]
    return samplers.sample(model, noise, prompts(), negative, 4.0, STEPS, "euler", "normal", 1.0, seed=0)


def test_the_prompts_of_a_pair_take_turns_at_a_common_length() -> None:
    long, short = draw(0, 1, 6, 16), draw(1, 1, 4, 16)
    ((context, entries),) = pair(
        [[long, {"pooled_output": draw(2, 1, 5), "width": 64}]], [[short, {"pooled_output": draw(3, 1, 5)}]]
    )
    assert context.shape == (2, 12, 16) and entries["width"] == 64
    assert torch.equal(context[0], long[0].repeat(2, 1)) and torch.equal(context[1], short[0].repeat(3, 1))
    assert torch.equal(entries["pooled_output"], torch.cat([draw(2, 1, 5), draw(3, 1, 5)]))
    with pytest.raises(ValueError, match="holds 2 prompts"):
        pair([[long, {}], [long, {}]], [[short, {}]])


def test_only_the_second_picture_of_a_pair_changes() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        assert torch.equal(run(attach(model, PromptToPrompt(SOURCE, SWAP, strength=0.0))), base)
        edited = attach(model, PromptToPrompt(SOURCE, SWAP))
        out = run(edited)
    assert torch.allclose(out[0], base[0], atol=1e-5) and (out[1] - base[1]).abs().max() > 1e-2
    assert torch.equal(run(model), base) and torch.equal(run(edited.clone()), out)
    # kernels may sum in another order for another batch, also without a patch; the latents here reach 300
    assert (run(edited, 4)[2:] - out).abs().max() < 1e-5 * out.abs().max()


def test_each_kind_of_attention_has_its_window() -> None:
    def uses(self_percent: float, end: float, blocks: str = "all") -> int:
        model = attach(
            patcher(), PromptToPrompt(SOURCE, SWAP, self_percent, 1.0, Where(parse(blocks), Schedule(0.0, end)))
        )
        run(model)
        return sum(last_run(model).patched.values())

    assert uses(0.0, 1.0) == STEPS * len(BLOCKS)
    assert uses(0.5, 1.0) == (STEPS + STEPS // 2) * len(BLOCKS)
    assert uses(1.0, 0.5) == 2 * (STEPS // 2) * len(BLOCKS)
    assert uses(1.0, 1.0, "all self") == uses(1.0, 1.0, "all cross") == STEPS * len(BLOCKS)
    assert uses(1.0, 0.0) == 0


def test_a_picture_without_a_partner_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="pairs of pictures, but the batch holds 3; set batch_size.*to 2"):
        run(attach(patcher(), PromptToPrompt(SOURCE, SWAP)), 3)


def test_it_composes_with_word_weights_in_both_orders() -> None:
    q, k, v = qkv()
    edit = layer(PromptToPrompt(SOURCE, SWAP), "attn2")
    weigh = layer(WordWeight((2,), 0.5, 7), "attn2")

    def nested(outer: Any, inside: Any) -> Tensor:
        return outer.around(lambda *x: inside.around(attend, *x, BOTH_SIDES), q, k, v, BOTH_SIDES)

    weights = edited_maps(maps(q, k), {i: i for i in range(7)})
    weights[4:, :, :, 2] *= 0.5
    for out in (nested(edit, weigh), nested(weigh, edit)):
        assert (out - applied(weights, v)).abs().max() < 1e-6


def test_it_composes_with_patches_and_shows_in_the_report() -> None:
    model = attach(patcher(), AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("input:3"))))
    model = attach(attach(model, PromptToPrompt(SOURCE, ADDED)), WordWeight((2,), 2.0, 7))
    run(model)
    text = report.text(last_run(model))
    assert "never ran" not in text and "prompt-to-prompt on all 0-80%, self-attention to 40%: ran" in text


def test_it_is_a_value_that_refuses_wrong_settings() -> None:
    method = PromptToPrompt(SOURCE, ADDED, 0.0, 0.5, Where(parse("middle"), Schedule(0.0, 0.8)))
    assert pickle.loads(pickle.dumps(method)) == method and method.name == "prompt-to-prompt 0.5 on middle 0-80%"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"self_percent": 1.5}, "self_percent is 1.5"),
        ({"strength": -1.0}, "strength is -1"),
        ({"source": ()}, "without tokens"),
    ]
    for settings, reason in wrong:
        with pytest.raises(ValueError, match=reason):
            PromptToPrompt(**{"source": SOURCE, "edited": SWAP, **settings})


def test_a_recoloured_shape_stays_where_it_was() -> None:
    """The captions name no places, so that the edited one alone would often arrange its two shapes anew."""
    model, clip, vae = load_checkpoint(CHECKPOINT)
    words = [
        (COLOURS[i % 6], SHAPES[i % 4], SHAPES[(i + i // 4) % 4], COLOURS[(i + j) % 6])
        for i in range(6)
        for j in (1, 2)
    ]
    captions = [f"a {first} {one} and a {second} {two}" for first, one, two, second in words]
    latent = {"samples": torch.zeros(len(captions), 4, 16, 16), "batch_index": [i // 2 for i in range(len(captions))]}
    positive, negative = [[torch.cat([clip.encode(caption) for caption in captions]), {}]], [[clip.encode(""), {}]]

    def edit(patcher: Any) -> tuple[int, float]:
        out = common_ksampler(patcher, 0, 8, 4.0, "euler", "normal", positive, negative, latent)
        pictures = vae.decode(out["samples"]).numpy()
        seen = [{one.colour for one in look(picture)} for picture in pictures[1::2]]
        recoloured = sum(new in found for found, (*_, new) in zip(seen, words[1::2], strict=True))
        masks = [np.any(list(segments(picture).values()), axis=0) for picture in pictures]
        overlaps = [(a & b).sum() / (a | b).sum() for a, b in zip(masks[::2], masks[1::2], strict=True)]
        return recoloured, float(np.mean(overlaps))

    with torch.inference_mode():
        _, plain = edit(model)
        recoloured, kept = edit(attach(model, PromptToPrompt(*(token_ids(clip, caption) for caption in captions[:2]))))
    assert kept >= plain + 0.05 and recoloured >= 4, (plain, kept, recoloured)
