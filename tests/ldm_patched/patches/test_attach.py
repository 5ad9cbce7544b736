from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.call import with_stacks
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.listed import lists
from attention_patchbay.ldm_patched.patches.engine.prompts import MorePrompts, Prompt
from attention_patchbay.ldm_patched.patches.engine.router import SLOT, Router
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE, Archive, GoneError
from attention_patchbay.ldm_patched.patches.record.plan import Entry, Plan, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import BLOCKS, HALF, IDENTITY, STEPS, ZERO, draw, last_run, patcher, run, unchanged


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
        assert len(lists(again.model_options["transformer_options"])["attn1_output_patch"]) == 2
        assert len(again.wrappers["outer_sample"]["patchbay"]) == len(again.wrappers["apply_model"]["patchbay"]) == 1


def test_sampling_leaves_nothing_in_the_model() -> None:
    patched = attach(attach(patcher(), IDENTITY), Rule("basic"))
    with unchanged(patched):
        run(patched)


def test_a_patch_that_is_taken_out_of_the_graph_is_gone() -> None:
    upstream = attach(patcher(), ZERO)
    alone = run(upstream)
    run(attach(upstream, IDENTITY))
    assert torch.equal(run(upstream), alone)


def test_options_that_are_copied_through_and_through_still_record() -> None:
    patched = attach(attach(patcher(), ZERO), Rule("basic"))
    patched.model_options = copy.deepcopy(patched.model_options)
    run(patched)
    assert sum(last_run(patched).patched.values()) == STEPS + len(BLOCKS) * 2 * STEPS


def test_marks_and_router_are_there_once() -> None:
    model = patcher()
    for _ in range(3):
        model = attach(attach(model, ZERO), Rule("basic"))
    options = model.model_options["transformer_options"]
    assert len(lists(options)["attn1_patch"]) == len(lists(options)["attn2_patch"]) == 1
    assert isinstance(options[SLOT], Router)
    assert options[SLOT].previous is None


def test_the_order_of_the_graph_is_the_order_of_the_patches() -> None:
    double = AttentionPatch("attn1.out", "scale", 2.0, where=Where(ZERO.address))
    mean = AttentionPatch("attn1.out", "mean", strength=0.5, where=Where(ZERO.address))
    model = attach(attach(patcher(), double), mean)
    patches = lists(model.model_options["transformer_options"])["attn1_output_patch"]
    assert [patch.gate.entry.value for patch in patches] == [double, mean]


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


def test_nothing_of_a_run_hangs_on_a_model_or_its_clones() -> None:
    patched = attach(attach(patcher(), ZERO), Rule("pytorch"))
    plan, foreign = plan_of(patched), patched.clone().clone()
    out = run(foreign)
    assert plan_of(patched) is plan_of(foreign) is plan
    assert sum(ARCHIVE.find(out, plan).patched.values()) == STEPS + len(BLOCKS) * 2 * STEPS
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_each_latent_has_the_run_that_gave_it() -> None:
    patched = attach(patcher(), Rule("basic"))
    first, second = run(patched, steps=2), run(patched, steps=4)
    plan = plan_of(patched)
    assert [sum(ARCHIVE.find(out, plan).calls.values()) for out in (first, second, first)] == [40, 80, 40]
    assert sum(ARCHIVE.find(first.half(), plan).calls.values()) == 40
    with pytest.raises(GoneError, match="no run is known that gave this latent"):
        ARCHIVE.find(first + 1.0, plan)
    with pytest.raises(GoneError, match="sampled with other patches"):
        ARCHIVE.find(first, plan_of(attach(patched, ZERO)))


def test_a_run_that_fails_leaves_no_record() -> None:
    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("broken")

    patched = attach(patcher(), ZERO)
    before = len(ARCHIVE._runs)
    failing = patched.clone()
    failing.set_model_attn1_output_patch(broken)
    with pytest.raises(RuntimeError, match="broken"):
        run(failing)
    assert len(ARCHIVE._runs) == before and isinstance(plan_of(patched), Plan)


def test_old_runs_are_dropped_and_their_captures_before_them() -> None:
    archive = Archive(most_runs=2, most_gathered=100)
    runs = [Run(), Run(), Run()]
    for number, one in enumerate(runs):
        one.gather(1, "key", torch.zeros(20), torch.add)  # 80 bytes
        archive.keep(one, [torch.full((1, 2), float(number))])
    with pytest.raises(GoneError):
        archive.find(torch.zeros(1, 2), Plan())
    assert archive.find(torch.full((1, 2), 1.0), Plan()) is runs[1]
    assert runs[1].dropped and not runs[1].gathered and runs[2].gathered


def test_patches_are_equal_by_all_that_is_in_them_and_nobody_changes_them_later() -> None:
    prompt = draw(3, 1, 7, 16)
    one, same = (AttentionPatch("attn2.k", "towards", other=prompt) for _ in range(2))
    other = AttentionPatch("attn2.k", "towards", other=prompt + 1.0)
    assert one == same and hash(one) == hash(same) and one != other and len({one, same, other}) == 2
    prompt.zero_()
    assert one == same and one.other is not None and bool(one.other.any())
    with pytest.raises(dataclasses.FrozenInstanceError):
        patched = attach(patcher(), Rule("basic"))
        patched.model_options["transformer_options"][SLOT].routes = ()


def test_what_appends_prompts_is_equal_by_their_numbers_and_keeps_them() -> None:
    prompt = draw(3, 1, 7, 16)
    gate = Gate(Entry("regions"), frozenset())
    one, same, other = (MorePrompts(gate, (prompt + more, prompt)) for more in (0.0, 0.0, 1.0))
    assert one == same and hash(one) == hash(same) and one != other
    assert one != MorePrompts(gate, (prompt,))
    kept = MorePrompts(gate, (prompt,))
    prompt.zero_()
    assert bool(kept.prompts[0].any())


def test_prompts_with_more_than_tokens_are_equal_by_their_numbers_too() -> None:
    """As with the mask of LTX-Video's text, which a node reads anew when the graph is queued again."""
    mask = torch.ones(1, 7, dtype=torch.long)

    def made(more: int = 0, **others: torch.Tensor) -> NormalizedGuidance:
        return NormalizedGuidance(Prompt(draw(3, 1, 7, 16), {"attention_mask": mask + more, **others}))

    one, same = made(), made()
    assert one == same and hash(one) == hash(same) and pickle.loads(pickle.dumps(one)) == one
    assert one not in (made(1), made(t5xxl_ids=mask), NormalizedGuidance(draw(3, 1, 7, 16)))
    mask.zero_()
    assert one == same and isinstance(one.negative, Prompt) and bool(one.negative.besides["attention_mask"].all())


def test_what_other_packs_find_in_the_lists_of_a_model_is_theirs() -> None:
    """A pack that knows only its own kind of patch ends at any other."""
    model = patcher()
    model.set_model_attn1_output_patch(print)
    for method in (ZERO, Rule("basic"), AttentionPatch("block.output", "scale", 2.0, where=Where.of("output"))):
        model = attach(model, method)
    options = model.model_options["transformer_options"]
    assert options["patches"] == {"attn1_output_patch": [print]}
    assert set(lists(options)) == {"attn1_output_patch", "attn1_patch", "attn2_patch", "output_block_patch"}
    assert lists(options)["attn1_output_patch"][0] is print
    call = with_stacks(options)
    assert lists(call) == lists(options)  # the options of a call that are used for one more
