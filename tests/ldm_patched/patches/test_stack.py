from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import optimized_attention
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import ATTEND, LAYERS, Inner, Layer, Stack, stacked, with_layer
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.plan import Entry
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import BLOCKS, HALF, IDENTITY, STEPS, calls, last_run, patcher, run

HERE = BlockId("input", 3, 1)


def test_a_foreign_replace_patch_becomes_the_innermost() -> None:
    seen: list[str] = []

    def foreign(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
        seen.append("foreign")
        return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options) * 0.5

    for address in (("input", 3), ("input", 3, 1)):
        model = patcher()
        model.set_model_attn1_replace(foreign, *address)
        base = run(model)
        seen.clear()
        out = run(attach(model, HALF))
        assert len(seen) == STEPS * (2 if len(address) == 2 else 1)
        assert not torch.equal(out, base)


def test_the_longer_and_the_shorter_address_of_a_slot_both_run() -> None:
    seen: list[tuple] = []

    def foreign(name: str) -> Any:
        def patch(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
            seen.append((name, extra_options["block_index"]))
            return v

        return patch

    model = patcher()
    model.set_model_attn1_replace(foreign("pair"), "input", 3)
    model.set_model_attn1_replace(foreign("triple"), "input", 3, 0)
    run(attach(model, HALF), steps=1)
    assert sorted(seen) == [("pair", 1), ("triple", 0)]


OPTIONS = {"block": HERE[:2], "block_index": HERE.inner, "n_heads": 1}
ONE = torch.ones(1, 1, 1)


def bracket(name: str, log: list[str], factor: float = 1.0, block: BlockId = HERE) -> Layer:
    """Return a layer that writes when it is entered and left, and changes what goes in and what comes out."""

    def act(site: Site, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inner: Inner) -> torch.Tensor:
        log.append(name)
        out = inner(q * factor, k, v + 1) * factor
        log.append(f"/{name}")
        return out

    return Layer(Gate(Entry(name), frozenset({block})), act)


@pytest.mark.parametrize("slot", ["attn1", "attn2"])
def test_layers_nest_like_brackets_around_the_foreign_patch(slot: str) -> None:
    log: list[str] = []
    given: list[torch.Tensor] = []

    def foreign(q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        log.append("foreign")
        given[:] = [q, v]
        return torch.ones_like(q)

    layers = (bracket("first", log, 2.0), bracket("second", log, 3.0))
    slots = stacked(slot, {HERE[:2]: foreign}, {HERE: layers}, optimized_attention)
    assert slots[HERE](ONE, ONE, ONE, OPTIONS) == 6.0 and [x.item() for x in given] == [6.0, 3.0]
    assert log == ["second", "first", "foreign", "/first", "/second"]
    assert slots[HERE[:2]] is foreign


def test_a_foreign_patch_misses_no_call_of_a_layer_that_needs_none() -> None:
    """Self-attention guidance records what it sees: it fails when an identity above it calls nothing."""
    seen: list[int] = []

    def recording(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
        seen.append(extra_options["block_index"])
        return v * 0.5

    model = patcher()
    model.set_model_attn1_replace(recording, "input", 3)
    assert torch.equal(run(attach(model, IDENTITY)), run(attach(patcher(), IDENTITY)))
    assert seen == [0, 1] * STEPS


def test_another_layer_makes_other_options() -> None:
    one = with_layer({}, "attn1", bracket("one", []))
    two = with_layer(one, "attn1", bracket("two", []))
    assert [len(options[LAYERS]["attn1"][HERE]) for options in (one, two)] == [1, 2]


def test_a_stack_is_around_the_patch_that_the_host_would_call() -> None:
    pair, triple, layers = object(), object(), {HERE: (bracket("mine", []),)}

    def inside(slots: dict[Any, Any]) -> Any:
        return stacked("attn1", slots, layers, optimized_attention)[HERE].foreign

    assert inside({}) is None
    assert inside({HERE[:2]: pair}) is pair
    assert inside({HERE[:2]: pair, HERE: triple}) is inside({HERE: triple}) is triple


def test_options_of_a_call_that_are_used_for_one_more_get_no_stack_in_a_stack() -> None:
    early, late, layers = object(), object(), {HERE: (bracket("mine", []),)}
    once = stacked("attn1", {HERE[:2]: early}, layers, optimized_attention)
    assert stacked("attn1", once, layers, optimized_attention) == once
    assert stacked("attn1", {**once, HERE[:2]: late}, layers, optimized_attention)[HERE].foreign is late
    exact = stacked("attn1", {HERE: early}, layers, optimized_attention)
    assert stacked("attn1", {**exact, HERE[:2]: late}, layers, optimized_attention)[HERE].foreign is early


def guided(model: ModelPatcher, seen: list[Any]) -> ModelPatcher:
    """Put a patch on all of input:3, as a guidance node does when it comes after ours."""

    def perturbed(q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        seen.append(extra_options["block_index"])
        return v

    model = model.clone()
    model.set_model_attn1_replace(perturbed, "input", 3)
    return model


def test_a_later_patch_of_the_whole_block_runs_in_a_sampling_run() -> None:
    seen: list[Any] = []
    both = guided(attach(patcher(), HALF), seen)
    out = run(both)
    assert seen == [0, 1] * STEPS
    assert sum(last_run(both).patched.values()) == 2 * STEPS
    # half of v and half of v: the same as v alone, which is the whole of the identity
    assert (out - run(attach(patcher(), IDENTITY))).abs().max() < 1e-4


class Loaded:
    """A foreign patch that brings a model along, as ComfyUI's hosts ask for it."""

    def __init__(self, log: list[str], place: str = "cpu") -> None:
        self.log, self.place = log, place

    def __call__(self, q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        return v

    def to(self, target: Any) -> Loaded:
        return Loaded(self.log, str(target))

    def models(self) -> list[Any]:
        return [self.place]

    def cleanup(self) -> None:
        self.log.append("cleanup")


@pytest.mark.parametrize("address", [("middle", 0), ("middle", 0, 0)])
def test_a_foreign_patch_in_a_stack_is_moved_and_cleaned_up_once(address: tuple[Any, ...]) -> None:
    log: list[str] = []
    model = patcher()
    model.set_model_attn1_replace(Loaded(log), *address)
    model = attach(model, AttentionPatch("attn1.out", "identity", strength=0.5))
    assert model.model_patches_models() == ["cpu"]
    model.model_patches_to("meta")
    assert model.model_patches_models() == ["meta"]
    model.cleanup()
    assert log == ["cleanup"]


def test_a_slot_that_was_taken_over_is_taken_back() -> None:
    model = attach(patcher(), IDENTITY)
    for index in (0, 1):
        model.set_model_attn1_replace(lambda q, k, v, extra_options: v * 2.0, "input", 3, index)
    assert torch.equal(run(model), run(attach(patcher(), IDENTITY)))
    assert "1. identity attn1.out on input:3: ran 4 times in 2 of 2 blocks" in report.text(last_run(model))


def test_stacks_of_one_model_differ_only_where_they_are() -> None:
    patch = AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("all")))
    model = attach(patcher(), patch)
    options = model.model_options["transformer_options"]
    stacks = stacked("attn1", {}, options[LAYERS]["attn1"], options[ATTEND])
    assert len(stacks) == 10
    assert len(set(stacks.values())) == 1


def test_a_layer_tells_those_below_it_what_has_changed() -> None:
    seen: list[Any] = []

    def layer(act: Any) -> Layer:
        return Layer(Gate(Entry("one"), frozenset({HERE})), act)

    def sees(site: Site, q: Any, k: Any, v: Any, inner: Inner) -> torch.Tensor:
        seen.append((site.piece, site.tokens))
        return inner(q, k, v)

    def tells(site: Site, q: Any, k: Any, v: Any, inner: Inner) -> torch.Tensor:
        return inner(q[:, :, :2], k, v, site.but(piece=(1, 2)))

    stack = Stack("attn1", (layer(sees), layer(tells), layer(sees)), lambda q, k, v, extra_options: q)
    stack(torch.ones(1, 4, 1), torch.ones(1, 4, 1), torch.ones(1, 4, 1), OPTIONS)
    assert seen == [(None, 4), ((1, 2), 2)]


@pytest.mark.parametrize("pair_first", [True, False])
def test_ours_run_around_foreign_patches_of_both_address_lengths(pair_first: bool) -> None:
    """(block, number) and (block, number, index): each runs where the host would run it, inside ours."""
    seen: list[tuple[str, int]] = []

    def foreign(name: str) -> Any:
        def patch(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
            seen.append((name, extra_options["block_index"]))
            return v

        return patch

    addresses = {"pair": ("input", 3), "triple": ("input", 3, 1)}
    model = patcher()
    for name in addresses if pair_first else reversed(addresses):
        model.set_model_attn1_replace(foreign(name), *addresses[name])
    model = attach(model, HALF)
    run(model, steps=1)
    assert seen == [("pair", 0), ("triple", 1)]
    assert "ran 2 times in 2 of 2 blocks" in report.text(last_run(model))


def test_rules_hold_inside_foreign_patches_and_stacks() -> None:
    def foreign(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
        return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options) * 0.5

    half = AttentionPatch("attn1.out", "identity", strength=0.5)
    for early in (True, False):
        model = patcher()
        if early:
            model.set_model_attn1_replace(foreign, "input", 3)
            model.set_model_attn2_replace(foreign, "middle", 0, 0)
        model = attach(attach(model, half), Rule("basic", Where(parse("all, !output"))))
        if not early:
            model.set_model_attn1_replace(foreign, "input", 3)
            model.set_model_attn2_replace(foreign, "middle", 0, 0)
        run(model)
        wanted = {
            (name, kind, "pytorch" if name.startswith("output") else "basic"): STEPS
            for name in BLOCKS
            for kind in ("self", "cross")
        }
        assert calls(model) == wanted
        assert f"ran {len(BLOCKS) * STEPS} times in {len(BLOCKS)} of {len(BLOCKS)} blocks" in report.text(
            last_run(model)
        )


def test_a_foreign_patch_that_takes_the_place_of_a_stack_gets_inside_it() -> None:
    """Hosts keep one entry for an address: what was there is thrown away, but its layers are not lost."""

    def half(q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        return v * 0.5

    before = patcher()
    before.set_model_attn1_replace(half, "input", 3, 0)
    expected = run(attach(before, HALF))
    after = attach(patcher(), HALF)
    after.set_model_attn1_replace(half, "input", 3, 0)
    assert torch.equal(run(after), expected)
    twice = attach(after, HALF)  # a later one of ours is put on what took the place
    assert torch.equal(run(twice), run(attach(attach(before, HALF), HALF)))
    assert torch.equal(run(after), expected)
    guided = attach(after, PerturbedGuidance(scale=1.0, where=Where(parse("input:3"))))
    assert torch.equal(
        run(guided), run(attach(attach(before, HALF), PerturbedGuidance(scale=1.0, where=Where(parse("input:3")))))
    )


def test_queries_that_were_cut_into_tiles_alone_are_tiled_for_every_layer() -> None:
    """ComfyUI's HyperTile cuts the queries only; attention functions then read the keys in the batch of the queries."""
    seen: list[Site] = []

    def act(site: Site, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inner: Inner) -> torch.Tensor:
        seen.append(site)
        return inner(q, k, v + 1) * 2

    q, x = torch.randn(4, 16, 8), torch.randn(1, 64, 8)
    options = {**OPTIONS, "n_heads": 2, "activations_shape": [1, 8, 8, 8]}
    stack = Stack("attn1", (Layer(Gate(Entry("one"), frozenset({HERE})), act),))
    assert torch.equal(stack(q, x, x, options), optimized_attention(q, x, x + 1, 2) * 2)
    assert seen[0].cut and not seen[0].over_time
    with pytest.raises(ValueError, match="16 tokens are no 8x8 picture"):
        assert seen[0].area
