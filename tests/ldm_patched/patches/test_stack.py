from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import optimized_attention
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import Address, BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.place import Around
from attention_patchbay.ldm_patched.patches.engine.stack import Stack, push, uncover
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
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


class Log:
    """A layer that writes when it is entered and left, and adds a number to v."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def around(self, inner: Any, q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        self.log.append(self.name)
        out = inner(q, k, v + 1) * 2
        self.log.append(f"/{self.name}")
        return out


def test_layers_nest_like_brackets_around_the_foreign_patch() -> None:
    log: list[str] = []

    def foreign(q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        log.append("foreign")
        return v * 10

    slots: dict[Any, Any] = {HERE[:2]: foreign}
    for name in ("first", "second"):
        slots[HERE] = push(slots, HERE, Log(name, log), optimized_attention)
    x = torch.zeros(1)
    assert slots[HERE](x, x, x, {}) == 80
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


def test_pushing_makes_another_stack() -> None:
    one = push({}, HERE, Log("one", []), optimized_attention)
    two = push({HERE: one}, HERE, Log("two", []), optimized_attention)
    assert [len(one.layers), len(two.layers)] == [1, 2]


def test_a_later_patch_of_the_whole_block_goes_inside_a_stack() -> None:
    early, late, layer = object(), object(), Log("mine", [])
    stack = push({HERE[:2]: early}, HERE, layer, optimized_attention)
    exact = push({HERE: early}, HERE, layer, optimized_attention)
    assert uncover({HERE: stack, HERE[:2]: early})[HERE] is stack
    assert uncover({HERE: stack, HERE[:2]: late})[HERE].foreign is late
    assert uncover({HERE: stack})[HERE].foreign is early
    assert uncover({HERE: exact, HERE[:2]: late})[HERE] is exact  # an exact one hides it in the host as well
    assert uncover({HERE: early, HERE[:2]: late}) == {HERE: early, HERE[:2]: late}


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
    slots = uncover(model.model_options["transformer_options"]["patches_replace"]["attn1"])
    assert slots["middle", 0, 0].foreign.place == "meta"


def test_a_slot_that_was_taken_over_is_taken_back() -> None:
    model = attach(patcher(), IDENTITY)
    for index in (0, 1):
        model.set_model_attn1_replace(lambda q, k, v, extra_options: v * 2.0, "input", 3, index)
    assert torch.equal(run(model), run(attach(patcher(), IDENTITY)))
    assert "1. identity attn1.out on input:3: ran 8 times in 2 of 2 blocks" in report.text(last_run(model))


def test_stacks_of_one_model_differ_only_where_they_are() -> None:
    patch = AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("all")))
    model = attach(patcher(), patch)
    stacks = model.model_options["transformer_options"]["patches_replace"]["attn1"]
    assert len(stacks) == 10
    assert len(set(stacks.values())) == 1
    assert all(isinstance(stack, Stack) for stack in stacks.values())


class Tells:
    """A layer that gives those below it other options."""

    def around(self, inner: Any, q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        return inner(q, k, v, {**extra_options, "told": True})


def test_a_layer_can_give_those_below_it_other_options() -> None:
    seen: list[Any] = []

    class Sees(Log):
        def around(self, inner: Any, q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
            seen.append((self.name, extra_options.get("told")))
            return inner(q, k, v)

    def foreign(q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        seen.append(("foreign", extra_options.get("told")))
        return v

    stack = Stack((Sees("below", []), Tells(), Sees("above", [])), foreign)
    stack(torch.zeros(1), torch.zeros(1), torch.zeros(1), {})
    assert seen == [("above", None), ("below", True), ("foreign", True)]


@dataclass(frozen=True, eq=False)
class Bracket:
    """A method that logs when it is entered and left, and changes what goes in and what comes out."""

    name: str
    kind: str
    factor: float
    log: list[tuple[str, BlockId]] = field(default_factory=list)
    address: Address = parse("middle")
    schedule: Schedule = Schedule()
    neutral: ClassVar[bool] = False

    @property
    def slot(self) -> str:
        return {"self": "attn1", "cross": "attn2"}[self.kind]

    def hooks(self, gate: Any, host: Host) -> Iterable[Hook]:
        return [Around(self.slot, BracketLayer(self, gate))]


@dataclass(frozen=True, eq=False)
class BracketLayer:
    method: Bracket
    gate: Any

    def around(self, inner: Any, q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
        self.gate.weight(extra_options)
        block = BlockId(*extra_options["block"], extra_options["block_index"])
        self.method.log.append((self.method.name, block))
        out = inner(q * self.method.factor, k, v + 1) * self.method.factor
        self.method.log.append((f"/{self.method.name}", block))
        return out


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_patches_of_one_slot_call_each_other_in_the_order_of_the_graph(kind: str) -> None:
    """The last one is entered first and left last; a foreign patch that was there is the innermost."""
    log: list[tuple[str, BlockId]] = []
    given: list[torch.Tensor] = []

    def foreign(q: torch.Tensor, k: Any, v: torch.Tensor, extra_options: Any) -> torch.Tensor:
        log.append(("foreign", BlockId("middle", 0)))
        given[:] = [q, v]
        return torch.zeros_like(q) + 1

    slot = {"self": "attn1", "cross": "attn2"}[kind]
    model = patcher()
    model.set_model_patch_replace(foreign, slot, "middle", 0)
    for name, factor in (("a", 2.0), ("b", 3.0), ("c", 5.0)):
        model = attach(model, Bracket(name, kind, factor, log))
    run(model, steps=1)
    assert [name for name, _ in log] == ["c", "b", "a", "foreign", "/a", "/b", "/c"]
    assert {block for _, block in log} == {BlockId("middle", 0)}
    stack = model.model_options["transformer_options"]["patches_replace"][slot]["middle", 0, 0]
    one = torch.ones(1, 1, 1)
    out = stack(one, one, one, {"block": ("middle", 0), "block_index": 0})
    assert out.item() == 30.0 and given[0].item() == 30.0 and given[1].item() == 4.0
    assert "never ran" not in report.text(last_run(model))


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
    log: list[tuple[str, BlockId]] = []
    model = attach(attach(model, HALF), Bracket("mine", "self", 1.0, log, parse("input:3.1")))
    run(model, steps=1)
    assert seen == [("pair", 0), ("triple", 1)]
    assert log == [("mine", HERE), ("/mine", HERE)]
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
    log: list[str] = []
    q, x = torch.randn(4, 16, 8), torch.randn(1, 64, 8)
    weak = PerturbedGuidance().weakening
    options = {"n_heads": 2}
    stack = push({}, HERE, Log("layer", log), optimized_attention)
    whole = optimized_attention(q, x, x + 1, 2) * 2
    assert torch.equal(stack(q, x, x, options), whole)

    class NeedsGrid:
        def around(self, inner: Any, q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
            assert piece_grid(q, extra_options)
            raise AssertionError

    class Weak:
        def around(self, inner: Any, q: Any, k: Any, v: Any, extra_options: Any) -> torch.Tensor:
            return weak.attend(inner, q, k, v, extra_options)

    assert torch.equal(push({}, HERE, Weak(), optimized_attention)(q, x, x, options), x.view(4, 16, 8))

    with pytest.raises(ValueError, match="16 tokens are no 8x8 picture"):
        picture = {**options, "activations_shape": [1, 8, 8, 8]}
        push({}, HERE, NeedsGrid(), optimized_attention)(q, x, x, picture)
