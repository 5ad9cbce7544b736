"""The list of what is on a model."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.engine.owner import foreign_name
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import IDENTITY, ZERO, patcher


def foreign(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("never called")


def slots(model: Any, number: int | None) -> list[tuple[str, Any]]:
    return [(part.slot, part.address) for part in placed(model) if part.number == number]


def test_every_patch_of_ours_is_listed_in_its_slot() -> None:
    model = attach(attach(attach(patcher(), ZERO), IDENTITY), Rule("basic"))
    model = attach(model, PerturbedGuidance(where=Where(parse("middle"))))
    assert slots(model, 1) == [("attn1_output_patch", None)]
    assert slots(model, 2) == [("attn1", BlockId("input", 3, 0)), ("attn1", BlockId("input", 3, 1))]
    assert slots(model, 3) == [("override", None)]
    assert slots(model, 4) == [("sampler_post_cfg_function", None)]
    assert slots(model, None) == []
    assert {part.block for part in placed(model) if part.number == 2} == {
        BlockId("input", 3, 0),
        BlockId("input", 3, 1),
    }


def test_every_foreign_patch_is_listed_behind_ours_too() -> None:
    model = patcher()
    model.set_model_attn1_replace(foreign, "input", 3)
    model.set_model_attn1_replace(foreign, "input", 3, 1)
    model.set_model_output_block_patch(foreign)
    model.model_options["transformer_options"]["optimized_attention_override"] = foreign
    model.set_model_sampler_pre_cfg_function(foreign)
    model.set_model_sampler_post_cfg_function(foreign)
    model.set_model_sampler_cfg_function(foreign)
    model.set_model_unet_function_wrapper(foreign)
    model.add_wrapper_with_key("outer_sample", "theirs", foreign)
    before = sorted(map(str, placed(model)))
    assert len(before) == 9
    patched = attach(attach(model, IDENTITY), Rule("basic"))
    assert sorted(str(part) for part in placed(patched) if part.number is None) == before
    name = f"{__name__}.foreign"
    assert f"{name} (attn1 on input:3)" in before and f"{name} (attn1 on input:3.1)" in before


def test_a_foreign_patch_is_named_by_where_it_comes_from() -> None:
    class Patch:
        def __call__(self) -> None: ...

    def inner() -> None: ...

    here = f"{__name__}.test_a_foreign_patch_is_named_by_where_it_comes_from"
    assert foreign_name(Patch()) == foreign_name(partial(Patch())) == f"{here}.Patch"
    assert foreign_name(inner) == f"{here}.inner"
    assert foreign_name(Patch().__call__) == f"{here}.Patch.__call__"


@pytest.mark.parametrize("folder", ["/home/me/ComfyUI/custom_nodes", "C:\\ComfyUI\\custom_nodes", "/mnt/more nodes"])
def test_a_pack_is_named_without_the_folders_of_this_machine(folder: str) -> None:
    def theirs() -> None: ...

    theirs.__module__ = f"{folder}{'/' if folder[0] == '/' else chr(92)}sd-perturbed_x_attention.nag_nodes"
    theirs.__qualname__ = "wrapper.<locals>.replace"
    assert foreign_name(theirs) == "sd-perturbed.attention: nag_nodes.wrapper.replace"
