"""LoRA hooks in a run: which weights each conditioning gets, and that the model is as before afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules import hooked_weights
from attention_patchbay.ldm_patched.modules.hooked_weights import HookedWeights
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.weight_hooks import Hook, Hooks, Keyframe, Keyframes, WeightChange
from attention_patchbay.ldm_patched.sampling.samplers import sample
from torch import Tensor

from ..tiny import conditioning, draw, patcher

PLACE = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
KEYS = (f"{PLACE}.attn1.to_q.weight", f"{PLACE}.attn2.to_v.weight")
NOISE = draw(0, 1, 4, 8, 8)


def hooks(
    strength: float = 1.0, seed: int = 3, keyframes: Keyframes | None = None, keys: tuple[str, ...] = KEYS
) -> Hooks:
    """Return a hook that adds random numbers to weights."""

    def found(patcher: ModelPatcher) -> dict[str, Any]:
        shapes = {key: weight.shape for key, weight in patcher.model.state_dict().items()}
        return {key: (draw(seed, *shapes.get(key, (1,))) / 4,) for key in keys}

    change = WeightChange(f"change {seed}", found, lambda patcher: {}, strength)
    return Hooks((Hook(change, keyframes or Keyframes()),))


def sampled(model: ModelPatcher, positive: list[Any], negative: list[Any] | None = None, **how: Any) -> Tensor:
    negative = conditioning(2) if negative is None else negative
    settings = {"cfg": 4.0, "steps": 4, "sampler_name": "euler", "scheduler": "normal", "seed": 1, **how}
    return sample(model, NOISE, positive, negative, **settings)


def patched(model: ModelPatcher, group: Hooks, strength: float = 1.0) -> ModelPatcher:
    """Return a clone with the changes of hooks for all conditionings."""
    clone = model.clone()
    for hook in group.hooks:
        clone.add_patches(hook.change.model_patches(model), strength * hook.change.strength_model)
    return clone


@pytest.fixture
def model() -> ModelPatcher:
    return patcher()


def weights(model: ModelPatcher) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}


def assert_as_before(model: ModelPatcher, objects: dict[str, Any], before: dict[str, Tensor]) -> None:
    assert dict(model.model.named_parameters()).keys() == before.keys()
    for name, parameter in model.model.named_parameters():
        assert parameter is objects[name] and torch.equal(parameter, before[name])
    assert model.model.patched_by is None


def test_a_hook_on_all_conditionings_is_a_patch_of_the_model(model: ModelPatcher) -> None:
    group = hooks()
    hooked = sampled(model, conditioning(1, hooks=group), conditioning(2, hooks=group))
    assert torch.equal(hooked, sampled(patched(model, group), conditioning(1)))


def test_a_hook_acts_on_its_conditioning_alone(model: ModelPatcher) -> None:
    group, found = hooks(), []
    model.set_model_sampler_post_cfg_function(
        lambda args: found.append((args["cond_denoised"], args["uncond_denoised"])) or args["denoised"]
    )
    sampled(model, conditioning(1, hooks=group), steps=1)
    sampled(model, conditioning(1), steps=1)
    sampled(patched(model, group), conditioning(1), steps=1)
    (cond, uncond), (plain_cond, plain_uncond), (all_cond, all_uncond) = found
    torch.testing.assert_close(cond, all_cond, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(uncond, plain_uncond, rtol=1e-4, atol=1e-4)
    assert (cond - plain_cond).abs().max() > 0.1 < (uncond - all_uncond).abs().max()


@pytest.mark.parametrize(
    "group",
    [hooks(0.0), hooks(keyframes=Keyframes((Keyframe(0.0),))), hooks(keys=("nothing.weight",)), Hooks()],
    ids=["strength 0", "keyframe 0", "no weight", "no hook"],
)
def test_what_changes_nothing_is_equal_to_no_hook(group: Hooks, model: ModelPatcher) -> None:
    assert torch.equal(sampled(model, conditioning(1, hooks=group)), sampled(model, conditioning(1)))


def test_keyframes_are_runs_of_the_parts_with_those_strengths(model: ModelPatcher) -> None:
    keyframes = Keyframes((Keyframe(0.5), Keyframe(1.5, 0.5)))
    group = hooks(keyframes=keyframes)
    strengths = []

    def note(executor: Any, *args: Any) -> Any:
        out = executor(*args)
        own, now = originals[KEYS[0]], dict(model.model.named_parameters())[KEYS[0]]
        strengths.append(float(((now - own) / added).median()))
        return out

    originals, added = weights(model), group.hooks[0].change.model_patches(model)[KEYS[0]][0]
    model.add_wrapper("calc_cond_batch", note)
    sampled(model, conditioning(1, hooks=group), cfg=1.0)
    assert strengths == pytest.approx([0.5, 0.5, 1.5, 1.5], rel=1e-3)


def test_changes_stand_on_the_patches_of_the_model(model: ModelPatcher) -> None:
    under, group = hooks(0.7, seed=5), hooks()
    own = patched(model, under)
    both = sampled(own, conditioning(1, hooks=group), cfg=1.0)
    torch.testing.assert_close(both, sampled(patched(own, group), conditioning(1), cfg=1.0))


def test_two_runs_are_alike(model: ModelPatcher) -> None:
    positive = conditioning(1, hooks=hooks(keyframes=Keyframes((Keyframe(0.2), Keyframe(1.0, 0.4)))))
    assert torch.equal(sampled(model, positive), sampled(model, positive))


def failing(error: BaseException, call: int) -> Callable[..., Any]:
    calls: list[int] = []

    def fail(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise error
        return executor(*args, **kwargs)

    return fail


@pytest.mark.parametrize("error", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("call", [1, 3])
def test_weights_are_the_old_ones_afterwards(error: BaseException | None, call: int, model: ModelPatcher) -> None:
    objects, before = dict(model.model.named_parameters()), weights(model)
    own = patched(model, hooks(seed=5, keys=KEYS[:1]))
    if error is not None:
        own.add_wrapper("apply_model", failing(error, call))
    try:
        sampled(own, conditioning(1, hooks=hooks()))
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert raised is error
    assert_as_before(own, objects, before)


def test_a_change_that_does_not_fit_leaves_the_model_as_it_was(model: ModelPatcher) -> None:
    objects, before = dict(model.model.named_parameters()), weights(model)
    change = WeightChange("odd", lambda patcher: {KEYS[0]: (torch.ones(3, 3),)}, lambda patcher: {})
    with pytest.raises(ValueError, match="to_q"):
        sampled(model, conditioning(1, hooks=Hooks((Hook(change, Keyframes()),))))
    assert_as_before(model, objects, before)


def test_another_handle_that_samples_during_a_run_finds_its_own_weights(model: ModelPatcher) -> None:
    plain, found = sampled(model, conditioning(1), cfg=1.0), []
    outer = model.clone()

    def nested(executor: Any, *args: Any, **kwargs: Any) -> Any:
        out = executor(*args, **kwargs)
        found.append(sampled(model, conditioning(1), cfg=1.0))
        return out

    outer.add_wrapper("apply_model", nested)
    sampled(outer, conditioning(1, hooks=hooks()), cfg=1.0, steps=1)
    assert torch.equal(found[0], plain)


def test_sets_of_weights_are_made_once_while_there_is_memory(
    model: ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(HookedWeights, "_made", counted(made))
    positive = conditioning(1, hooks=hooks()) + conditioning(4, hooks=hooks(seed=6)) + conditioning(5)
    plenty = sampled(model, positive)
    assert len(made) == 2
    monkeypatch.setattr(hooked_weights, "ROOM", 0.0)
    assert torch.equal(sampled(model, positive), plenty)
    assert len(made) == 2 + 2 * 4


def counted(made: list[Any]) -> Callable[..., Any]:
    original = HookedWeights._made

    def counting(self: HookedWeights, state: Any) -> Any:
        made.append(state)
        return original(self, state)

    return counting


def test_a_default_conditioning_gets_what_the_others_leave(model: ModelPatcher) -> None:
    half = torch.zeros(1, 8, 8)
    half[..., :4] = 1.0
    left, right = conditioning(1, mask=half), conditioning(3)
    default = sampled(model, left + conditioning(3, default=True))
    masked = sampled(model, left + conditioning(3, mask=1 - half))
    torch.testing.assert_close(default, masked)
    assert torch.equal(sampled(model, conditioning(1) + conditioning(3, default=True)), sampled(model, conditioning(1)))
    assert not torch.allclose(default, sampled(model, left + right))


def test_a_prompt_encoded_for_a_part_of_the_run_acts_there(model: ModelPatcher) -> None:
    first = conditioning(1, clip_start_percent=0.0, clip_end_percent=0.5, start_percent=0.0, end_percent=0.9)
    second = conditioning(3, clip_start_percent=0.5, clip_end_percent=1.0, start_percent=0.0, end_percent=0.9)
    windows = conditioning(1, end_percent=0.5) + conditioning(3, start_percent=0.5, end_percent=0.9)
    assert torch.equal(sampled(model, first + second), sampled(model, windows))
