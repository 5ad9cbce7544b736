from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.router import SLOT, Router
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import BLOCKS, HALF, IDENTITY, STEPS, ZERO, last_run, patcher, run, unchanged


@pytest.mark.parametrize("patch", [ZERO, IDENTITY], ids=["list", "replace"])
def test_the_input_model_and_its_other_clones_stay_as_they_were(patch: AttentionPatch) -> None:
    model = patcher()
    base = run(model)
    other = model.clone()
    with unchanged(model), unchanged(other):
        patched = attach(model, patch)
        run(patched)
        attach(patched, patch)
        attach(patched, Rule("split"))
    assert torch.equal(run(model), base)
    assert torch.equal(run(other), base)
    assert not torch.equal(run(patched), base)


def test_running_a_node_again_on_a_cached_model_adds_nothing_up() -> None:
    model = patcher()
    upstream = attach(model, AttentionPatch("attn1.out", "scale", 1.5))
    once = run(attach(upstream, AttentionPatch("attn1.out", "scale", 1.5)))
    for _ in range(3):
        again = attach(upstream, AttentionPatch("attn1.out", "scale", 1.5))
        assert torch.equal(run(again), once)
        assert len(last_run(again).entries) == 2
        assert len(again.model_options["transformer_options"]["patches"]["attn1_output_patch"]) == 2
        assert len(again.get_all_callbacks("on_pre_run")) == 1


def test_sampling_leaves_nothing_in_the_model() -> None:
    patched = attach(attach(patcher(), IDENTITY), Rule("basic"))
    with unchanged(patched):
        run(patched)


def test_a_patch_that_is_taken_out_of_the_graph_is_gone() -> None:
    upstream = attach(patcher(), ZERO)
    alone = run(upstream)
    run(attach(upstream, IDENTITY))
    assert torch.equal(run(upstream), alone)


def test_branches_do_not_share_a_recorder() -> None:
    upstream = attach(patcher(), Rule("pytorch"))
    left, right, foreign = attach(upstream, ZERO), attach(upstream, IDENTITY), upstream.clone()
    run(left)
    assert sum(last_run(left).calls.values()) == len(BLOCKS) * 2 * STEPS
    for other in (right, foreign, foreign.clone(), upstream):
        assert not last_run(other).calls
        assert not last_run(other).seen


def test_the_clone_of_another_node_records_by_itself() -> None:
    patched = attach(patcher(), ZERO)
    foreign = patched.clone().clone()
    run(foreign)
    assert sum(last_run(foreign).patched.values()) == STEPS
    assert last_run(foreign).entries == last_run(patched).entries
    assert not last_run(patched).patched


def test_options_that_are_copied_through_and_through_still_record() -> None:
    patched = attach(attach(patcher(), ZERO), Rule("basic"))
    recorder = last_run(patched)
    patched.model_options = copy.deepcopy(patched.model_options)
    run(patched)
    assert last_run(patched) is recorder
    assert sum(recorder.patched.values()) == STEPS + len(BLOCKS) * 2 * STEPS


def test_marks_and_router_are_there_once() -> None:
    model = patcher()
    for _ in range(3):
        model = attach(attach(model, ZERO), Rule("basic"))
    options = model.model_options["transformer_options"]
    assert len(options["patches"]["attn1_patch"]) == len(options["patches"]["attn2_patch"]) == 1
    assert isinstance(options[SLOT], Router)
    assert options[SLOT].previous is None


def test_the_order_of_the_graph_is_the_order_of_the_patches() -> None:
    double = AttentionPatch("attn1.out", "scale", 2.0, where=Where(ZERO.address))
    mean = AttentionPatch("attn1.out", "mean", strength=0.5, where=Where(ZERO.address))
    model = attach(attach(patcher(), double), mean)
    patches = model.model_options["transformer_options"]["patches"]["attn1_output_patch"]
    assert [patch.patch for patch in patches] == [double, mean]


def test_the_host_gives_the_attention_inside_a_replaced_slot() -> None:
    seen: list[Any] = []

    def attend(q: Any, k: Any, v: Any, heads: int, **kwargs: Any) -> torch.Tensor:
        seen.append((heads, sorted(kwargs), kwargs["transformer_options"]["block"]))
        return v

    run(attach(patcher(), HALF, Host(attend)), steps=1)
    assert seen == [(4, ["attn_precision", "transformer_options"], ("input", 3))] * 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_patches_of_several_slots_do_not_depend_on_their_order(order: tuple[int, ...]) -> None:
    patches = [ZERO, HALF, AttentionPatch("attn2.k", "mean", strength=0.3)]

    def patched(picked: list[AttentionPatch]) -> ModelPatcher:
        model = patcher()
        for patch in picked:
            model = attach(model, patch)
        return model

    assert torch.equal(run(patched([patches[i] for i in order])), run(patched(patches)))
