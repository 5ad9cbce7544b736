from __future__ import annotations

from typing import Any

import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import optimized_attention
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches import report
from attention_patchbay.ldm_patched.patches.attach import attach, recorder_of
from attention_patchbay.ldm_patched.patches.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.stack import Stack, push, uncover
from attention_patchbay.ldm_patched.patches.targets import BlockId, parse

from .models import HALF, IDENTITY, STEPS, patcher, run

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
    assert sum(recorder_of(both).patched.values()) == 2 * STEPS
    # half of v and half of v: the same as v alone, which is the whole of the identity
    assert (out - run(attach(patcher(), IDENTITY))).abs().max() < 1e-4


def test_a_slot_that_was_taken_over_is_reported() -> None:
    model = attach(patcher(), IDENTITY)
    for index in (0, 1):
        model.set_model_attn1_replace(lambda q, k, v, extra_options: v, "input", 3, index)
    run(model)
    assert "1. identity attn1.out on input:3: never ran, another patch took its place" in report.text(
        recorder_of(model)
    )


def test_one_block_of_two_taken_over_is_named() -> None:
    model = attach(patcher(), IDENTITY)
    model.set_model_attn1_replace(lambda q, k, v, extra_options: v, "input", 3, 1)
    run(model)
    assert "ran 4 times in 1 of 2 blocks; never in input:3.1" in report.text(recorder_of(model))


def test_stacks_of_one_model_differ_only_where_they_are() -> None:
    patch = AttentionPatch("attn1.out", "identity", strength=0.5, address=parse("all"))
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
