"""Patches taken off a model and copied to another: what is left is bit-equal to a model that never had them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import optimized_attention
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.engine.listed import lists
from attention_patchbay.ldm_patched.patches.engine.owner import foreign_name
from attention_patchbay.ldm_patched.patches.engine.recording import record_run
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.reading.manage import Selection, copy_patches, put, remove_patches
from attention_patchbay.ldm_patched.patches.record.plan import entries, plan_of
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig

from .models import HALF, UNET, ZERO, last_run, patcher, run, unchanged

HALF_CROSS = AttentionPatch("attn2.out", "scale", 0.5, where=Where(parse("output:0-1"), Schedule(0.0, 0.6)))
PAG = PerturbedGuidance(scale=1.0, where=Where(parse("middle, input:3")))
RULE = Rule("basic", Where(parse("output:0-3")))
VALUES = [HALF, ZERO, RULE, HALF_CROSS, PAG]


def with_all(model: Any, *values: Any) -> Any:
    for value in values:
        model = put(model, value)
    return model


def scaling(factor: float) -> Callable[..., torch.Tensor]:
    """Return a foreign output patch."""

    def patch(n: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        return n * factor + 0.1

    return patch


def halved(q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> torch.Tensor:
    return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options) * 0.5


def take(model: Any, **selection: Any) -> Any:
    return remove_patches(model, Selection(**selection))[0]


def names(model: Any) -> list[str]:
    return [entry.name for entry in entries(model)]


def structure(model: Any) -> Any:
    """Return what is on a model without the objects of the run."""
    return [(part.slot, part.address, part.number, type(part.patch)) for part in placed(model)], names(model)


# Removal


@pytest.mark.parametrize("gone", VALUES, ids=lambda value: value.name)
def test_a_removed_patch_leaves_what_a_model_without_it_has(gone: Any) -> None:
    left = [value for value in VALUES if value is not gone]
    model = with_all(patcher(), *VALUES)
    with unchanged(model):
        clone = take(model, owner=gone.name)
    assert structure(clone) == structure(with_all(patcher(), *left))
    assert torch.equal(run(clone), run(with_all(patcher(), *left)))


def test_with_all_patches_gone_nothing_is_left() -> None:
    model = patcher()
    base = run(model)
    clone, lines = remove_patches(with_all(model, *VALUES), Selection())
    assert lines == [f"removed {value.name}" for value in VALUES]
    assert plan_of(clone) is None and list(placed(clone)) == []
    options = clone.model_options["transformer_options"]
    assert not any(lists(options).values()) and not any(options.get("patches_replace", {}).values())
    assert not any(clone.get_all_wrappers(place) for place in ("apply_model", "outer_sample"))
    assert torch.equal(run(clone), base)


@pytest.mark.parametrize(
    ("slot", "left"),
    [
        ("attn1", [ZERO, RULE, HALF_CROSS, PAG]),
        ("attn1_output_patch", [HALF, RULE, HALF_CROSS, PAG]),
        ("attn1.out", [RULE, HALF_CROSS, PAG]),
        ("override", [HALF, ZERO, HALF_CROSS, PAG]),
        ("sampler_post_cfg_function", [HALF, ZERO, RULE, HALF_CROSS]),
    ],
)
def test_patches_are_selected_by_slot(slot: str, left: list[Any]) -> None:
    assert [entry.value for entry in entries(take(with_all(patcher(), *VALUES), slot=slot))] == left


def test_a_part_of_the_blocks_is_taken_out_of_a_patch() -> None:
    clone, lines = remove_patches(with_all(patcher(), *VALUES), Selection(address=parse("input:3.1, output:1-2")))
    assert names(clone) == [
        "identity attn1.out x 0.5 on input:3, !input:3.1",
        ZERO.name,
        "backend basic on output:0-3, !output:1, !output:2",
        "scale 0.5 attn2.out on output:0-1, !output:1 0-60%",
        "perturbed-attention guidance 1 on middle, input:3, !input:3.1",
    ]
    assert lines[0] == f"restricted {HALF.name} to input:3, !input:3.1"
    wanted = [
        AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("input:3.0"))),
        ZERO,
        Rule("basic", Where(parse("output:0, output:3"))),
        AttentionPatch("attn2.out", "scale", 0.5, where=Where(parse("output:0"), Schedule(0.0, 0.6))),
        PerturbedGuidance(scale=1.0, where=Where(parse("middle, input:3.0"))),
    ]
    assert torch.equal(run(clone), run(with_all(patcher(), *wanted)))


def test_one_kind_of_attention_is_taken_out_of_a_rule() -> None:
    model = put(patcher(), Rule("split"))
    assert names(take(model, address=parse("all cross"))) == ["backend split on all self"]
    with pytest.raises(ValueError, match="cannot lose one of them in 'middle cross' only"):
        take(model, address=parse("middle cross"))


def test_everything_else_keeps_its_order() -> None:
    model = patcher()
    first, second = scaling(2.0), scaling(3.0)
    double = AttentionPatch("attn1.out", "scale", 2.0, where=Where(parse("middle")))
    model.set_model_attn1_output_patch(first)
    model = put(put(model, ZERO), double)
    model.set_model_attn1_output_patch(second)
    model = put(model, double)
    clone = take(model, owner=ZERO.name)
    patches = lists(clone.model_options["transformer_options"])["attn1_output_patch"]
    assert patches[:2] == [first, second]
    assert [patch.gate.entry.number for patch in patches[2:]] == [1, 2]


def test_wrappers_keep_their_order() -> None:
    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        return executor(*args, **kwargs)

    model = put(put(patcher(), HALF), ZERO)
    model.add_wrapper_with_key("apply_model", "theirs", wrapper)
    model.add_wrapper_with_key("outer_sample", "theirs", wrapper)
    for place in ("apply_model", "outer_sample"):
        assert list(take(model, owner=ZERO.name).wrappers[place]) == list(model.wrappers[place])
    bare = take(model, owner="ours")
    assert bare.get_all_wrappers("apply_model") == bare.get_all_wrappers("outer_sample") == [wrapper]
    assert take(model, slot="wrappers").get_all_wrappers("outer_sample") == [record_run]


# Foreign patches


def theirs(model: ModelPatcher) -> ModelPatcher:
    model.set_model_attn1_replace(halved, "input", 3)
    model.set_model_attn1_replace(halved, "middle", 0, 0)
    model.set_model_attn2_output_patch(scaling(0.5))
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9)
    model.set_model_optimized_attention(optimized_attention)
    return model


@pytest.mark.parametrize("after", [False, True], ids=["foreign first", "ours first"])
def test_foreign_patches_are_removed_and_ours_stay(after: bool) -> None:
    model = theirs(with_all(patcher(), *VALUES)) if after else with_all(theirs(patcher()), *VALUES)
    with unchanged(model):
        clone, lines = remove_patches(model, Selection(owner="foreign"))
    assert len(lines) == 5 and all(__name__ in line or "model_hooks" in line for line in lines)
    assert all(part.number is not None for part in placed(clone))
    assert torch.equal(run(clone), run(with_all(patcher(), *VALUES)))


def test_ours_are_removed_and_foreign_ones_stay() -> None:
    clone = take(with_all(theirs(patcher()), *VALUES), owner="ours")
    assert {part.slot for part in placed(clone)} == {
        "attn1",
        "attn2_output_patch",
        "override",
        "sampler_post_cfg_function",
    }
    assert torch.equal(run(clone), run(theirs(patcher())))


def test_a_foreign_patch_is_selected_by_its_block_or_its_name() -> None:
    model = theirs(patcher())
    clone = take(model, slot="attn1", address=parse("middle"))
    assert [part.address for part in placed(clone) if part.slot == "attn1"] == [("input", 3)]
    assert {part.slot for part in placed(take(model, owner="HALVED"))} == {
        "attn2_output_patch",
        "override",
        "sampler_post_cfg_function",
    }
    with pytest.raises(ValueError, match="no patch to remove at slot attn1, owner all, blocks input:3.1"):
        take(model, slot="attn1", address=parse("input:3.1"))


def test_nothing_to_remove_is_an_error_that_tells_what_there_is() -> None:
    with pytest.raises(ValueError, match="slot all, owner nodes_pag, blocks all; the model has none"):
        take(patcher(), owner="nodes_pag")
    model = theirs(put(patcher(), ZERO))
    with pytest.raises(ValueError, match="the model has") as refusal:
        take(model, owner="nodes_pag")
    assert f"- {ZERO.name} (attn1.out)" in str(refusal.value)
    assert f"- {__name__}.halved (attn1 on input:3)" in str(refusal.value)
    with pytest.raises(AddressError, match="no block 'input:9'"):
        take(model, address=parse("input:9"))


# Copies


def small() -> ModelPatcher:
    """Return another model, without output:1.1."""
    torch.manual_seed(5)
    unet = {**UNET, "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1]}
    return ModelPatcher(MODEL_CLASSES["sd1"](ModelConfig("sd1", unet), operations=plain), "cpu", "cpu")


def test_a_copy_is_what_the_nodes_themselves_would_have_put() -> None:
    source, target = with_all(patcher(), ZERO, RULE, PAG), put(small(), HALF_CROSS)
    with unchanged(source), unchanged(target):
        clone = copy_patches(source, target)
    wanted = with_all(small(), HALF_CROSS, ZERO, RULE, PAG)
    assert structure(clone) == structure(wanted)
    assert torch.equal(run(clone), run(wanted))
    assert "never ran" not in report.text(last_run(clone))


def test_an_address_that_the_target_lacks_names_the_patch() -> None:
    source = put(patcher(), AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("input:3.1"))))
    with pytest.raises(AddressError, match=r"identity attn1.out x 0.5 on input:3.1: .*no block 'input:3.1'"):
        copy_patches(source, small())
    foreign = patcher()
    foreign.set_model_attn1_replace(halved, "input", 3, 1)
    with pytest.raises(AddressError, match=r"halved \(attn1 on input:3.1\): this model has no such block; it has"):
        copy_patches(foreign, small(), foreign=True)


def test_foreign_patches_are_copied_in_their_order() -> None:
    first, second, own = scaling(2.0), scaling(3.0), scaling(4.0)
    source = patcher()
    source.set_model_attn1_output_patch(first)
    source = put(source, ZERO)
    source.set_model_attn1_output_patch(second)
    target = small()
    target.set_model_attn1_output_patch(own)
    assert names(copy_patches(source, target)) == [ZERO.name]
    patches = lists(copy_patches(source, target, True).model_options["transformer_options"])["attn1_output_patch"]
    assert patches[:3] == [own, first, second] and [patch.gate.entry.value for patch in patches[3:]] == [ZERO]


def test_a_copied_foreign_replacement_runs_inside_the_stack_that_is_there() -> None:
    source, seen = patcher(), []

    def foreign(q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> torch.Tensor:
        seen.append(extra_options["block"])
        return halved(q, k, v, extra_options)

    source.set_model_attn1_replace(foreign, "input", 3)
    source.set_model_attn1_replace(foreign, "middle", 0, 0)
    mine = AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("input:3, middle")))
    clone = copy_patches(source, put(small(), mine), foreign=True)
    out = run(clone, steps=1)
    assert seen == [("input", 3), ("middle", 0)]
    assert "ran 2 times in 2 of 2 blocks" in report.text(last_run(clone))
    with_foreign = small()
    with_foreign.set_model_attn1_replace(foreign, "input", 3)
    with_foreign.set_model_attn1_replace(foreign, "middle", 0, 0)
    assert torch.equal(out, run(put(with_foreign, mine), steps=1))


def test_a_foreign_replacement_takes_over_another_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    source, target = patcher(), small()
    source.set_model_attn1_replace(halved, "middle", 0)
    target.set_model_attn1_replace(lambda q, k, v, extra_options: v, "middle", 0)
    with caplog.at_level(logging.WARNING):
        clone = copy_patches(source, target, foreign=True)
    assert "halved (attn1 on middle) takes the place of" in caplog.text
    assert [part.patch for part in placed(clone)] == [halved]


def test_nothing_to_copy_is_an_error() -> None:
    model = patcher()
    with pytest.raises(ValueError, match="no patch to copy; the model has none"):
        copy_patches(model, small())
    model.set_model_attn1_output_patch(scaling(2.0))
    with pytest.raises(ValueError, match=r"no patch to copy; the model has\n- .*scaling.patch \(attn1_output_patch\)"):
        copy_patches(model, small())


def test_a_clone_without_its_patches_can_be_patched_again() -> None:
    model = take(with_all(patcher(), *VALUES), owner="ours")
    assert torch.equal(run(attach(model, ZERO)), run(attach(patcher(), ZERO)))


def test_a_method_that_others_put_in_the_place_of_the_network_s_is_removed_and_not_copied() -> None:
    model = with_all(patcher(), *VALUES)
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.forward"
    model.add_object_patch(key, halved)
    clone, lines = remove_patches(model, Selection(owner="foreign", address=parse("middle")))
    assert clone.object_patches == {} and key in model.object_patches
    assert lines == [f"removed {foreign_name(halved)} (attn2.forward on middle.0)"]
    assert copy_patches(model, patcher(), foreign=True).object_patches == {}
