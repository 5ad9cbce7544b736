"""Other packs' patches beside ours, in both orders of the nodes: small stand-ins that keep to their contracts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import optimized_attention
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import Inner, Layer, Stack
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.prompt_to_prompt import PromptToPrompt
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.reading.inspector import findings
from attention_patchbay.ldm_patched.patches.record.plan import Entry
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.cond_batch import calc_cond_batch
from torch import Tensor

from .models import BLOCKS, STEPS, conditioning, draw, last_run, patcher, run

Node = Callable[[Any], Any]
HERE = BlockId("middle", 0)
CROSS = AttentionTemperature(1.5, where=Where(parse("all cross")))
orders = pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "theirs first"])


def beside(ours: Any, theirs: Node, ours_first: bool) -> Any:
    """Put a method and a foreign node on a model, in one order."""
    return theirs(attach(patcher(), ours)) if ours_first else attach(theirs(patcher()), ours)


def attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    return optimized_attention(q, k, v, options["n_heads"], transformer_options=options)


# A node that adds to what is in its slot: what is there is taken to be its own


class Adapters:
    def __init__(self, shift: float) -> None:
        self.shifts = [shift]

    def add(self, shift: float) -> None:
        self.shifts.append(shift)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return attend(q, k, v, extra_options) + sum(self.shifts)


def adapter(model: Any) -> Any:
    model = model.clone()
    options = dict(model.model_options["transformer_options"])
    replaced = {**options.get("patches_replace", {})}
    slots = replaced["attn2"] = dict(replaced.get("attn2", {}))
    for key in (("input", 3, 0), ("middle", 0, 0)):
        if key in slots:
            slots[key].add(0.5)
        else:
            slots[key] = Adapters(0.5)
    model.model_options["transformer_options"] = {**options, "patches_replace": replaced}
    return model


@orders
def test_a_node_that_adds_to_its_slot_finds_nothing_of_ours_there(ours_first: bool) -> None:
    out = run(beside(CROSS, adapter, ours_first))
    assert torch.equal(out, run(beside(CROSS, adapter, not ours_first)))
    alone = (run(adapter(patcher())), run(attach(patcher(), CROSS)))
    assert all((out - one).abs().max() > 1e-3 for one in alone)


def test_a_node_that_adds_finds_its_own_through_ours() -> None:
    both = adapter(attach(adapter(patcher()), CROSS))
    expected = attach(adapter(adapter(patcher())), CROSS)
    assert torch.equal(run(both), run(expected))


# A node that keeps what is in its slot, and calls it inside


def keeping(model: Any) -> Any:
    model = model.clone()
    slots = model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})

    def around(before: Any) -> Any:
        def patch(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
            out = attend(q, k, v, extra_options) if before is None else before(q, k, v, extra_options)
            return out * 0.7

        return patch

    for name, number, index in (("input", 1, 0), ("middle", 0, 0)):
        before = slots.get((name, number), slots.get((name, number, index)))
        model.set_model_attn2_replace(around(before), name, number, index)
    return model


@orders
def test_layers_run_once_beside_a_node_that_calls_what_was_there(ours_first: bool) -> None:
    both = beside(CROSS, keeping, ours_first)
    out = run(both)
    assert sum(last_run(both).patched.values()) == STEPS * len(BLOCKS)
    owners = [finding.owner for finding in findings(both, out)]
    assert sum("keeping" in owner for owner in owners) == 2 and sum(owner.startswith("1. ") for owner in owners) == 10
    assert not any(finding.trouble for finding in findings(both, out))
    assert torch.equal(out, run(beside(CROSS, keeping, not ours_first)))


# Rows that have no queries, and rows that are no chunk of the call


def watching(seen: list[Any]) -> Layer:
    def act(site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        seen.append((site, k))
        return inner(q, k * 2, v)

    return Layer(Gate(Entry("one"), frozenset({HERE})), act)


OPTIONS = {"block": HERE[:2], "block_index": 0, "n_heads": 2, "activations_shape": [2, 8, 4, 4]}


def test_rows_of_keys_without_queries_pass_by_the_layers() -> None:
    seen: list[Any] = []
    given: list[Tensor] = []
    q, k = draw(0, 2, 16, 8), draw(1, 3, 7, 8)
    stack = Stack("attn2", (watching(seen),))
    assert torch.equal(stack(q, k, k, OPTIONS), optimized_attention(q, k[:2] * 2, k[:2], 2))
    assert seen[0][1].shape[0] == 2 and not seen[0][0].cut

    def foreign(q: Tensor, k: Tensor, v: Tensor, extra_options: Any) -> Tensor:
        given[:] = [k, v]
        return q

    Stack("attn2", (watching(seen),), foreign)(q, k, k, OPTIONS)
    assert torch.equal(given[0], torch.cat([k[:2] * 2, k[2:]])) and torch.equal(given[1], k)


def test_fewer_rows_of_keys_than_of_queries_are_left_to_those_who_made_them() -> None:
    seen: list[Any] = []
    q, k = draw(0, 4, 16, 8), draw(1, 2, 8, 8)
    stack = Stack("attn2", (watching(seen),))
    assert torch.equal(stack(q, k, k, OPTIONS), optimized_attention(q, k, k, 2)) and not seen


def coupled(model: Any) -> Any:
    """Give the cond as many rows again for a second prompt, in all of cross-attention, and mix the two afterwards."""
    model = model.clone()
    other = draw(9, 1, 7, 16)

    def rows_in(n: Tensor, context: Tensor, value: Tensor, extra_options: dict[str, Any]) -> Any:
        chunks = extra_options["cond_or_uncond_couple"] = []
        rows: list[Tensor] = []
        texts: list[Tensor] = []
        for side, x, c in zip(extra_options["cond_or_uncond"], n.chunk(2), context.chunk(2), strict=True):
            more = other.repeat(len(c), -(-c.shape[1] // 7), 1)[:, : c.shape[1]]
            chunks.extend([1] if side else [0, 0])
            rows.extend([x] if side else [x, x])
            texts.extend([c] if side else [c, more])
        return torch.cat(rows), torch.cat(texts), torch.cat(texts)

    def rows_out(n: Tensor, extra_options: dict[str, Any]) -> Tensor:
        chunks = extra_options["cond_or_uncond_couple"]
        parts = n.chunk(len(chunks))
        mixed = 0.5 * sum(part for part, side in zip(parts, chunks, strict=True) if side == 0)
        return torch.cat([mixed if side == 0 else parts[chunks.index(1)] for side in extra_options["cond_or_uncond"]])

    model.set_model_attn2_patch(rows_in)
    model.set_model_attn2_output_patch(rows_out)
    return model


def half_region(seed: int = 5) -> RegionalPrompt:
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1.0
    return RegionalPrompt((Region(draw(seed, 1, 5, 16), mask),))


@orders
def test_regions_change_the_cond_rows_that_another_pack_has_made(ours_first: bool) -> None:
    out = run(beside(half_region(), coupled, ours_first))
    assert torch.equal(out, run(beside(half_region(), coupled, not ours_first)))
    for alone in (run(coupled(patcher())), run(attach(patcher(), half_region()))):
        assert (out - alone).abs().max() > 1e-3


@orders
def test_regions_leave_the_negative_alone_among_rows_of_others(ours_first: bool) -> None:
    seen: list[Tensor] = []

    def watched(model: Any) -> Any:
        model = coupled(model)
        model.set_model_attn2_output_patch(lambda n, options: seen.append((n, options["cond_or_uncond"])) or n)
        return model

    run(watched(patcher()), steps=1)
    plain, sides = seen[0]
    seen.clear()
    run(beside(half_region(), watched, ours_first), steps=1)
    changed = (seen[0][0] - plain).abs().amax((1, 2))
    assert changed[sides.index(1)] < 1e-6 and changed[sides.index(0)] > 1e-3


@orders
def test_a_region_everywhere_is_all_that_the_rows_of_others_attend_to(ours_first: bool) -> None:
    everywhere = RegionalPrompt((Region(draw(5, 1, 5, 16), torch.ones(1, 8, 8)),))
    out = two(beside(everywhere, coupled, ours_first))
    assert (out - two(attach(patcher(), everywhere))).abs().max() < 1e-4


WORDS = (
    WordWeight((1, 2), 3.0, 7),
    WordMask((1, 2), torch.arange(64.0).view(1, 8, 8) / 64, 7),
    PromptToPrompt((1, 2, 3, 4, 5, 6, 7), (1, 2, 8, 4, 5, 9, 7), 1.0),
)


@orders
@pytest.mark.parametrize("method", WORDS, ids=lambda method: type(method).__name__)
def test_words_are_found_among_more_rows_than_the_prompts_have(method: Method, ours_first: bool) -> None:
    out = two(beside(method, coupled, ours_first))
    assert torch.equal(out, two(beside(method, coupled, not ours_first)))
    for alone in (two(coupled(patcher())), two(attach(patcher(), method))):
        assert (out - alone).abs().max() > 1e-3


# A patch that leaves out what it gets


def couple(model: Any) -> Any:
    """Attend to a prompt of one's own, whatever the keys are."""
    model = model.clone()
    own = draw(4, 1, 7, 32), draw(6, 1, 7, 32)

    def patch(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        k, v = (x.repeat(len(q), 1, q.shape[2] // 32) for x in own)
        return attend(q, k, v, extra_options)

    for name, number in (("input", 1), ("input", 3), ("middle", 0), *(("output", i) for i in range(4))):
        model.set_model_attn2_replace(patch, name, number)
    return model


@orders
@pytest.mark.parametrize("method", ["regions", "attn2.k", "attn2.v"])
def test_keys_and_values_that_a_foreign_patch_leaves_out_are_overridden(method: str, ours_first: bool) -> None:
    ours = half_region() if method == "regions" else AttentionPatch(method, "scale", 1.5)
    both = beside(ours, couple, ours_first)
    out = run(both)
    assert (out - run(couple(patcher()))).abs().max() < 1e-4
    text = report.text(last_run(both))
    assert f"overridden by {__name__} in all of them" in text
    (mine, *_) = [finding for finding in findings(both, out) if finding.owner.startswith("1. ")]
    assert "overridden by" in mine.trouble


@pytest.mark.parametrize("method", ["regions", "attn2.q", "attn2.v"])
def test_what_a_foreign_patch_reads_is_not_overridden(method: str) -> None:
    ours = half_region() if method == "regions" else AttentionPatch(method, "scale", 1.5)
    both = beside(ours, couple if method == "attn2.q" else keeping, True)
    run(both)
    assert "overridden" not in report.text(last_run(both))


# A patch that gives back the values


def perturbed(q: Tensor, k: Tensor, v: Tensor, extra_options: Any) -> Tensor:
    return v


def guided(model: Any) -> Any:
    """Predict once more with values in the place of self-attention, as perturbed-attention guidance does."""
    model = model.clone()

    def after(args: dict[str, Any]) -> Tensor:
        options = {**args["model_options"]["transformer_options"]}
        replaced = {**options.get("patches_replace", {})}
        replaced["attn1"] = {**replaced.get("attn1", {}), ("middle", 0): perturbed, ("input", 3): perturbed}
        weakened = {**args["model_options"], "transformer_options": {**options, "patches_replace": replaced}}
        (weak,) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], weakened)
        return args["denoised"] + 2.0 * (args["cond_denoised"] - weak)

    model.set_model_sampler_post_cfg_function(after)
    return model


LONGER = {
    "reference": Reference(draw(8, 1, 4, 8, 8), where=Where(parse("all"))),
    "style aligned": StyleAligned(where=Where(parse("all"))),
    "downsampling": KeyValueDownsampling(where=Where(parse("all"))),
}


def two(model: Any) -> Tensor:
    """Sample two images."""
    noise = draw(0, 2, 4, 8, 8)
    return samplers.sample(model, noise, conditioning(1), conditioning(2), 4.0, 2, "euler", "normal", 1.0, seed=0)


@orders
@pytest.mark.parametrize("name", LONGER)
def test_other_keys_of_ours_and_a_patch_that_gives_back_values(name: str, ours_first: bool) -> None:
    out = two(beside(LONGER[name], guided, ours_first))
    assert torch.equal(out, two(beside(LONGER[name], guided, not ours_first)))
    for alone in (two(guided(patcher())), two(attach(patcher(), LONGER[name]))):
        assert (out - alone).abs().max() > 1e-3


def test_what_gives_back_values_gets_the_image_s_own() -> None:
    """Keys and values of a reference stand behind: the perturbed attention is that of the image alone."""
    q, v = draw(0, 2, 16, 8), draw(2, 2, 16, 8)

    def longer(site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        return inner(q, torch.cat([k, k], 2), torch.cat([v, v + 1], 2))

    layer = Layer(Gate(Entry("longer"), frozenset({HERE})), longer)
    assert torch.equal(Stack("attn1", (layer,), perturbed)(q, q, v, OPTIONS), v)


def test_a_result_of_another_size_names_both_and_the_fix() -> None:
    def fewer(site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        return inner(q[:, :, :8], k[:, :, :4], v[:, :, :4])

    layer = Layer(Gate(Entry("fewer tokens on middle"), frozenset({HERE})), fewer)
    x = draw(0, 2, 16, 8)
    with pytest.raises(
        ValueError, match=r"perturbed gives 4 tokens for 8 queries .* of fewer tokens on middle in middle"
    ):
        Stack("attn1", (layer,), perturbed)(x, x, x, OPTIONS)


def test_merged_tokens_and_a_patch_that_gives_back_values() -> None:
    both = beside(TokenMerging(where=Where(parse("middle"))), guided, True)
    assert torch.isfinite(run(both)).all()


def test_a_patch_that_records_is_left_with_the_call_itself() -> None:
    """Self-attention guidance makes a mask of the map: with the keys of another image it would have no size."""
    seen: list[Tensor] = []

    def recording(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        seen[:] = [k]
        return attend(q, k, v, extra_options)

    def longer(site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        return inner(q, torch.cat([k, k], 2), torch.cat([v, v], 2))

    layer = Layer(Gate(Entry("longer"), frozenset({HERE})), longer)
    q, k = draw(0, 2, 16, 8), draw(1, 2, 16, 8)
    Stack("attn1", (layer,), recording)(q, k, k, OPTIONS)
    assert seen[0] is k


def test_a_patch_may_write_into_what_it_gets() -> None:
    """Smoothed-energy guidance blurs queries in place; the maps of one picture for all share their memory."""

    def writing(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        q[:] = q.mean(1, keepdim=True)
        return attend(q, k, v, extra_options)

    def pure(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return attend(q.mean(1, keepdim=True).expand_as(q), k, v, extra_options)

    def twice(site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        return inner(q[:1].expand_as(q), k, v) - inner(q, k * 2.0, v)

    layer = Layer(Gate(Entry("twice"), frozenset({HERE})), twice)
    k = draw(1, 2, 16, 8)
    ran = [Stack("attn1", (layer,), patch)(draw(0, 2, 16, 8), k, k, OPTIONS) for patch in (writing, pure)]
    assert torch.allclose(*ran, atol=1e-6)


def merging(model: Any) -> Any:
    """Keep every second token of the queries of large pictures, as token merging does."""
    model = model.clone()
    model.set_model_attn1_patch(halving)
    model.set_model_attn1_output_patch(lambda n, options: n.repeat_interleave(2, 1))
    return model


def halving(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    return n[:, ::2], context, value


@orders
def test_an_error_of_missing_tokens_names_who_may_have_taken_them(ours_first: bool) -> None:
    says = r"middle: 8 tokens are no 4x4 picture, .*test_neighbours.halving merged, cut or added some; take the block"
    with pytest.raises(ValueError, match=says):
        run(beside(TokenMerging(where=Where(parse("middle"))), merging, ours_first))
