"""The model patcher: nothing is shared between clones, and everything is taken out of the model again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.patcher_extension import CallbacksMP, WrappersMP

from ..tiny import patcher

KEY = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def function(*args: Any) -> None:
    """Stand for any patch."""


PATCH_SETTERS = {
    "set_model_attn1_patch": "attn1_patch",
    "set_model_attn2_patch": "attn2_patch",
    "set_model_attn1_output_patch": "attn1_output_patch",
    "set_model_attn2_output_patch": "attn2_output_patch",
    "set_model_input_block_patch": "input_block_patch",
    "set_model_input_block_patch_after_skip": "input_block_patch_after_skip",
    "set_model_middle_block_after_patch": "middle_block_after_patch",
    "set_model_output_block_patch": "output_block_patch",
    "set_model_emb_patch": "emb_patch",
    "set_model_forward_timestep_embed_patch": "forward_timestep_embed_patch",
    "set_model_double_block_patch": "double_block",
    "set_model_post_input_patch": "post_input",
    "set_model_noise_refiner_patch": "noise_refiner",
}
CHANGES: dict[str, Callable[[ModelPatcher], Any]] = {
    **{name: lambda m, name=name: getattr(m, name)(function) for name in PATCH_SETTERS},
    "attn1_replace": lambda m: m.set_model_attn1_replace(function, "middle", 0),
    "attn2_replace": lambda m: m.set_model_attn2_replace(function, "output", 1, 0),
    "override": lambda m: m.set_model_optimized_attention(function),
    "cfg": lambda m: m.set_model_sampler_cfg_function(function, disable_cfg1_optimization=True),
    "pre_cfg": lambda m: m.set_model_sampler_pre_cfg_function(function),
    "post_cfg": lambda m: m.set_model_sampler_post_cfg_function(function, disable_cfg1_optimization=True),
    "calc_cond_batch": lambda m: m.set_model_sampler_calc_cond_batch_function(function),
    "unet_wrapper": lambda m: m.set_model_unet_function_wrapper(function),
    "denoise_mask": lambda m: m.set_model_denoise_mask_function(function),
    "object": lambda m: m.add_object_patch("model_sampling", object()),
    "weights": lambda m: m.add_patches({KEY: (torch.ones(32, 32),)}),
    "wrapper": lambda m: m.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "here", function),
    "wrapper without key": lambda m: m.add_wrapper(WrappersMP.APPLY_MODEL, function),
    "callback": lambda m: m.add_callback_with_key(CallbacksMP.ON_CLEANUP, "here", function),
    "callback without key": lambda m: m.add_callback(CallbacksMP.ON_CLEANUP, function),
    "attachment": lambda m: m.set_attachments("here", [1]),
    "attachment content": lambda m: m.get_attachment("list").append(3),
}


def containers(value: Any, path: str = "") -> dict[int, str]:
    """Return the ids of all dicts, lists and sets under a value with their paths."""
    if not isinstance(value, (dict, list, set)):
        return {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {id(value): path}
    for key, item in items:
        found |= containers(item, f"{path}/{key}")
    return found


def state(model: ModelPatcher) -> dict[str, Any]:
    return {key: value for key, value in vars(model).items() if isinstance(value, (dict, list, set))}


def shape_of(value: Any) -> Any:
    """Return the nesting of a value with the ids of what is in it."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape_of(item) for item in value]
    return id(value)


@pytest.fixture(scope="module")
def bare() -> ModelPatcher:
    return patcher()


@pytest.fixture
def full(bare: ModelPatcher) -> ModelPatcher:
    model = bare.clone()
    model.set_attachments("list", [1, 2])
    for change in CHANGES.values():
        change(model)
    return model


def test_clones_share_no_container(full: ModelPatcher) -> None:
    clone = full.clone()
    mine, theirs = containers(state(full)), containers(state(clone))
    assert len(mine) > 35
    assert sorted(mine.values()) == sorted(theirs.values())
    assert not {path for key, path in mine.items() if key in theirs}


def test_clones_share_the_model_and_every_callable(full: ModelPatcher) -> None:
    clone = full.clone()
    assert clone.is_clone(full) and clone.model is full.model and clone.parent is full
    assert clone.model_options["transformer_options"]["patches"]["attn1_patch"] == [function]
    assert clone.get_all_wrappers(WrappersMP.APPLY_MODEL) == [function, function]
    assert not full.is_clone(patcher())


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reaches_neither_the_parent_nor_a_sibling(full: ModelPatcher, name: str) -> None:
    sibling, clone = full.clone(), full.clone()
    before = [shape_of(state(model)) for model in (full, sibling)]
    CHANGES[name](clone)
    assert [shape_of(state(model)) for model in (full, sibling)] == before


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_kept_in_the_handle(bare: ModelPatcher, name: str) -> None:
    model = bare.clone()
    model.set_attachments("list", [])
    before = shape_of(state(model))
    CHANGES[name](model)
    assert shape_of(state(model)) != before


@pytest.mark.parametrize(("setter", "slot"), PATCH_SETTERS.items())
def test_patches_of_a_slot_keep_their_order(bare: ModelPatcher, setter: str, slot: str) -> None:
    model = bare.clone()
    getattr(model, setter)(function)
    getattr(model, setter)(print)
    assert model.model_options == {"transformer_options": {"patches": {slot: [function, print]}}}


def test_replace_addresses_have_two_or_three_parts(bare: ModelPatcher) -> None:
    model = bare.clone()
    model.set_model_attn1_replace(function, "input", 4)
    model.set_model_attn1_replace(print, "input", 4, 1)
    model.set_model_patch_replace(function, "dit", "double_block", 3)
    assert model.model_options["transformer_options"]["patches_replace"] == {
        "attn1": {("input", 4): function, ("input", 4, 1): print},
        "dit": {("double_block", 3): function},
    }


def test_the_override_calls_the_chosen_function_without_the_default(bare: ModelPatcher) -> None:
    model = bare.clone()
    model.set_model_optimized_attention(lambda *args, **kwargs: (args, kwargs))
    override = model.model_options["transformer_options"]["optimized_attention_override"]
    assert override(print, 1, 2, mask=3) == ((1, 2), {"mask": 3})
    assert not hasattr(override, "container_function")


def test_guidance_of_three_arguments_gets_them_from_the_dict(bare: ModelPatcher) -> None:
    model = bare.clone()
    model.set_model_sampler_cfg_function(lambda cond, uncond, scale: (cond, uncond, scale))
    args = {"cond": 1, "uncond": 2, "cond_scale": 3, "input": 4}
    assert model.model_options["sampler_cfg_function"](args) == (1, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_unpatching_restores_every_weight_to_the_bit(dtype: torch.dtype) -> None:
    model = patcher()
    model.model.to(dtype)
    originals = {key: value.clone() for key, value in model.model_state_dict().items()}
    up, down = torch.randn(32, 4), torch.randn(4, 32)
    added = model.add_patches({KEY: ("lora", (up, down, 2.0, None)), "no.such.key": (up,)}, 0.5)
    assert added == [KEY]
    model.patch_model("cpu")
    wanted = originals[KEY].double() + 0.5 * (2.0 / 4) * (up.double() @ down.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    patched = model.model_state_dict()
    torch.testing.assert_close(patched[KEY].double(), wanted, rtol=tolerance, atol=tolerance)
    assert all(torch.equal(patched[key], value) for key, value in originals.items() if key != KEY)
    model.unpatch_model()
    assert all(torch.equal(value, originals[key]) for key, value in model.model_state_dict().items())
    assert model.model.patched_by is None


def test_patching_another_clone_takes_the_first_one_out(bare: ModelPatcher) -> None:
    original = bare.model_state_dict()[KEY].clone()
    first, second = bare.clone(), bare.clone()
    first.add_patches({KEY: (torch.ones(32, 32),)})
    first.add_object_patch("latent_format", "first")
    first.patch_model()
    second.patch_model()
    assert torch.equal(bare.model_state_dict()[KEY], original)
    second.unpatch_model()
    assert torch.equal(bare.model_state_dict()[KEY], original)


def test_a_clone_sees_the_unpatched_model_while_another_runs(bare: ModelPatcher) -> None:
    original, latent_format = bare.model_state_dict()[KEY].clone(), bare.model.latent_format
    running, clone = bare.clone(), bare.clone()
    running.add_patches({KEY: (torch.ones(32, 32),)})
    running.add_object_patch("latent_format", "patched")
    running.patch_model()
    assert clone.get_model_object("latent_format") is latent_format
    assert running.get_model_object("latent_format") == "patched"
    assert torch.equal(clone.get_key_patches()[KEY][0][0], original)
    running.unpatch_model()
    assert bare.model.latent_format is latent_format


def test_object_patches_reach_nested_attributes(bare: ModelPatcher) -> None:
    model = bare.clone()
    replacement = torch.nn.Identity()
    original = model.get_model_object("diffusion_model.out.1")
    model.add_object_patch("diffusion_model.out.1", replacement)
    assert model.patch_model().diffusion_model.out[1] is replacement
    model.unpatch_model()
    assert model.get_model_object("diffusion_model.out.1") is replacement
    assert model.model.diffusion_model.out[1] is original


def test_wrappers_and_callbacks_by_key(bare: ModelPatcher) -> None:
    model = bare.clone()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "a", function)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "b", print)
    assert model.get_all_wrappers(WrappersMP.OUTER_SAMPLE) == [function, print]
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, "a")
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, "not there")
    assert model.get_wrappers(WrappersMP.OUTER_SAMPLE, "a") == []
    assert model.get_all_wrappers(WrappersMP.OUTER_SAMPLE) == [print]
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, "a", function)
    model.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, "a")
    assert model.get_callbacks(CallbacksMP.ON_PRE_RUN, "a") == []


def test_attachments_can_clone_themselves(bare: ModelPatcher) -> None:
    class Attachment:
        def on_model_patcher_clone(self) -> str:
            return "cloned"

    model = bare.clone()
    model.set_attachments("a", Attachment())
    model.set_attachments("b", function)
    clone = model.clone()
    assert clone.get_attachment("a") == "cloned" and clone.get_attachment("b") is function
    clone.remove_attachments("b")
    assert clone.get_attachment("b") is None and model.get_attachment("b") is function


def test_on_clone_gets_both_handles(bare: ModelPatcher) -> None:
    seen: list[Any] = []
    model = bare.clone()
    model.add_callback(CallbacksMP.ON_CLONE, lambda *handles: seen.extend(handles))
    clone = model.clone()
    assert seen == [model, clone]


def test_size_and_dtype(bare: ModelPatcher) -> None:
    numbers = sum(p.numel() for p in bare.model.diffusion_model.parameters())
    assert bare.model_size() == 4 * (numbers + 2000)  # two schedules of 1000 steps
    assert bare.model_dtype() == torch.float32
    assert bare.clone().clone_has_same_weights(bare)


def test_patch_objects_are_moved_and_cleaned_up(bare: ModelPatcher) -> None:
    class Patch:
        cleaned = 0

        def to(self, target: Any) -> Patch:
            return Patch()

        def cleanup(self) -> None:
            Patch.cleaned += 1

        def models(self) -> list[str]:
            return ["brought along"]

    model, first = bare.clone(), Patch()
    model.set_model_attn1_patch(first)
    model.set_model_attn2_replace(first, "middle", 0)
    model.model_patches_to("cpu")
    options = model.model_options["transformer_options"]
    assert options["patches"]["attn1_patch"][0] is not first
    assert options["patches_replace"]["attn2"][("middle", 0)] is not first
    assert model.model_patches_models() == ["brought along"] * 2
    model.cleanup()
    assert Patch.cleaned == 2
