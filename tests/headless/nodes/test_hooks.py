"""LoRA hooks on the demo model. What they give in ComfyUI is compared in tests/contract/test_hooks_comfyui.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, current, entered
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.modules import model_management
from attention_patchbay.ldm_patched.modules.weight_hooks import Hooks
from safetensors.torch import save_file
from torch import Tensor

from ...hooked import write_models

NODES = catalog()
AREA = {"strength": 1.0, "set_cond_area": "default"}
SAMPLER = {"seed": 3, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
TEXT = "a red circle"
STRENGTHS = {"strength_model": 1.0, "strength_clip": 0.5}


def node(name: str, **inputs: Any) -> Any:
    found = NODES[name].execute(**inputs).args
    return found[0] if len(found) == 1 else found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    model, clip, _ = load_checkpoint(CHECKPOINT)
    with entered(Session(Folders(folder))):
        yield {
            "model": model,
            "clip": clip,
            "caption": node("CLIPTextEncode", clip=clip, text=TEXT),
            "empty": node("CLIPTextEncode", clip=clip, text=""),
        }


def lora(name: str = "one", model: float = 1.0, clip: float = 1.0, **more: Any) -> Hooks:
    return node("CreateHookLora", lora_name=f"{name}.safetensors", strength_model=model, strength_clip=clip, **more)


def hooked(cond: Any, hooks: Hooks | None, **more: Any) -> Any:
    return node("ConditioningSetProperties", cond_NEW=cond, hooks=hooks, **AREA, **more)


def sampled(parts: dict[str, Any], positive: Any, negative: Any = None, model: Any = None) -> Tensor:
    links = {"model": model or parts["model"], "positive": positive, "negative": negative or parts["empty"]}
    return node("KSampler", latent_image={"samples": torch.zeros(1, 4, 16, 16)}, **links, **SAMPLER)["samples"]


def of_names(hooks: Hooks) -> list[str]:
    return [hook.change.name for hook in hooks.hooks]


def test_a_hook_on_both_prompts_is_the_lora_on_the_model(parts: dict[str, Any]) -> None:
    pair = node("PairConditioningSetProperties", positive_NEW=parts["caption"], negative_NEW=parts["empty"],
                hooks=lora("one", 1.0, 0.0), **AREA)  # fmt: skip
    model = node("LoraLoaderModelOnly", model=parts["model"], lora_name="one.safetensors", strength_model=1.0)
    assert torch.equal(sampled(parts, *pair), sampled(parts, parts["caption"], model=model))


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_hooks_of_a_text_encoder_are_the_lora_on_it(strength: float, parts: dict[str, Any]) -> None:
    clip = node("SetClipHooks", clip=parts["clip"], apply_to_conds=True, schedule_clip=False, hooks=lora(clip=strength))
    strengths = {"strength_model": 0.0, "strength_clip": strength}
    _, plain = node("LoraLoader", model=parts["model"], clip=parts["clip"], lora_name="one.safetensors", **strengths)
    before = {name: value.clone() for name, value in parts["clip"].cond_stage_model.state_dict().items()}
    (context, values), (expected, _) = (node("CLIPTextEncode", clip=one, text=TEXT)[0] for one in (clip, plain))
    torch.testing.assert_close(context, expected)
    assert not torch.allclose(context, parts["caption"][0][0])
    assert of_names(values["hooks"]) == ["one.safetensors"]
    after = parts["clip"].cond_stage_model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(node("CLIPTextEncode", clip=parts["clip"], text=TEXT)[0][0], parts["caption"][0][0])


def test_a_scheduled_text_encoder_gives_a_prompt_for_each_strength(parts: dict[str, Any]) -> None:
    frames = node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.0)
    frames = node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.5, prev_hook_kf=frames)
    timed = node("SetHookKeyframes", hooks=lora(), hook_kf=frames)
    clip, always = (
        node("SetClipHooks", clip=parts["clip"], apply_to_conds=False, schedule_clip=scheduled, hooks=timed)
        for scheduled in (True, False)
    )
    first, second = node("CLIPTextEncode", clip=clip, text=TEXT)
    assert [first[1][f"clip_{end}_percent"] for end in ("start", "end")] == [0.0, 0.5]
    assert torch.equal(first[0], parts["caption"][0][0]) and "hooks" not in first[1]
    assert torch.equal(second[0], node("CLIPTextEncode", clip=always, text=TEXT)[0][0])


def test_without_hooks_a_text_encoder_is_given_on(parts: dict[str, Any]) -> None:
    how = {"apply_to_conds": True, "schedule_clip": True}
    assert node("SetClipHooks", clip=parts["clip"], **how) is parts["clip"]
    none = node("SetClipHooks", clip=parts["clip"], hooks=lora(model=0.0, clip=0.0), **how)
    assert torch.equal(node("CLIPTextEncode", clip=none, text=TEXT)[0][0], parts["caption"][0][0])


def test_hooks_are_put_together_once_each(parts: dict[str, Any]) -> None:
    one, two = lora("one"), lora("two")
    both = node("CombineHooks2", hooks_A=one, hooks_B=two)
    assert of_names(both) == ["one.safetensors", "two.safetensors"]
    assert node("CombineHooks4", hooks_A=both, hooks_B=None, hooks_C=one, hooks_D=None) == both
    assert node("CombineHooks8", **{f"hooks_{letter}": None for letter in "ABCDEFGH"}) is None
    assert of_names(lora("two", prev_hooks=one)) == of_names(both)
    assert lora("two", 0.0, 0.0, prev_hooks=one) == one
    again = hooked(hooked(parts["caption"], one), both)
    assert again[0][1]["hooks"] == both and "hooks" not in parts["caption"][0][1]


def test_a_checkpoint_as_a_hook_is_that_checkpoint(parts: dict[str, Any]) -> None:
    full = node("CreateHookModelAsLora", ckpt_name="other.safetensors", strength_model=1.0, strength_clip=1.0)
    model, clip, _ = node("CheckpointLoaderSimple", ckpt_name="other.safetensors")
    hooked_clip = node("SetClipHooks", clip=parts["clip"], apply_to_conds=True, schedule_clip=False, hooks=full)
    ours, theirs = ([node("CLIPTextEncode", clip=one, text=text) for text in (TEXT, "")] for one in (hooked_clip, clip))
    torch.testing.assert_close(ours[0][0][0], theirs[0][0][0])
    expected = sampled(parts, *theirs, model=model)
    torch.testing.assert_close(sampled(parts, *ours), expected, rtol=1e-4, atol=1e-3)
    half = node("CreateHookModelAsLoraModelOnly", ckpt_name="other.safetensors", strength_model=0.5)
    merged = node("ModelMergeSimple", model1=parts["model"], model2=model, ratio=0.5)
    pair = [hooked(parts[name], half) for name in ("caption", "empty")]
    torch.testing.assert_close(
        sampled(parts, *pair), sampled(parts, parts["caption"], model=merged), rtol=1e-4, atol=1e-3
    )


def test_keyframes_between_two_strengths(caplog: pytest.LogCaptureFixture) -> None:
    ends = {"strength_start": 0.0, "strength_end": 2.0, "start_percent": 0.0, "end_percent": 1.0, "keyframes_count": 5}

    def strengths(interpolation: str) -> list[float]:
        found = node("CreateHookKeyframesInterpolated", interpolation=interpolation, print_keyframes=True, **ends)
        assert [frame.start_percent for frame in found.frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
        assert [frame.guarantee_steps for frame in found.frames] == [1, 0, 0, 0, 0]
        return [frame.strength for frame in found.frames]

    with caplog.at_level(logging.INFO):
        assert strengths("linear") == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert len(caplog.records) == 5
    assert strengths("ease_in") == pytest.approx([0.0, 0.125, 0.5, 1.125, 2.0])
    assert strengths("ease_out") == pytest.approx([0.0, 0.875, 1.5, 1.875, 2.0])
    assert strengths("ease_in_out") == pytest.approx([0.0, 1 - 0.5**0.5, 1.0, 1 + 0.5**0.5, 2.0])


@pytest.mark.parametrize(("given", "expected"), [(0.5, [0.5]), (2, [2.0]), ([0.1, 0.9, 0.4], [0.1, 0.9, 0.4])])
def test_keyframes_from_a_list(given: Any, expected: list[float]) -> None:
    before = node("CreateHookKeyframe", strength_mult=3.0, start_percent=0.0)
    where = {"start_percent": 0.2, "end_percent": 0.8, "prev_hook_kf": before}
    found = node("CreateHookKeyframesFromFloats", floats_strength=given, **where)
    assert [frame.strength for frame in found.frames] == [3.0, *expected]


def test_a_lora_that_holds_nothing_for_the_model_is_told_of(
    parts: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    file = {"other.lora_up.weight": torch.ones(2, 2), "other.lora_down.weight": torch.ones(2, 2)}
    save_file(file, current().folders.models / "loras" / "odd.safetensors")
    positive = hooked(parts["caption"], lora("odd"))
    assert torch.equal(sampled(parts, positive), sampled(parts, parts["caption"]))
    assert "odd.safetensors holds nothing for the model" in caplog.text


def test_an_interrupt_leaves_the_weights_as_they_were(parts: dict[str, Any]) -> None:
    before = {name: value.clone() for name, value in parts["model"].model.state_dict().items()}
    model = parts["model"].clone()

    def interrupted(args: dict[str, Any]) -> Tensor:
        model_management.interrupt_current_processing()
        model_management.throw_exception_if_processing_interrupted()
        raise AssertionError("not interrupted")

    model.set_model_sampler_post_cfg_function(interrupted)
    with pytest.raises(model_management.InterruptProcessingException):
        sampled(parts, hooked(parts["caption"], lora()), model=model)
    after = parts["model"].model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
