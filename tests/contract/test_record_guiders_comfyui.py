"""The record of a run in a real ComfyUI server, under guiders of several prompts, hooks, areas and changed grids."""

from __future__ import annotations

from typing import Any

import pytest

from .recorded import ATTENTIONS, Host, base, reader, readers, sampler
from .workflows import Workflow, node

pytestmark = pytest.mark.comfyui


GUIDERS: dict[str, dict[str, Any]] = {
    "CFGGuider": {"positive": ["caption", 0], "negative": ["empty", 0], "cfg": 3.0},
    "PerpNegGuider": {
        "positive": ["caption", 0],
        "negative": ["other", 0],
        "empty_conditioning": ["empty", 0],
        "cfg": 3.0,
        "neg_scale": 1.0,
    },
    "DualCFGGuider": {
        "cond1": ["caption", 0],
        "cond2": ["other", 0],
        "negative": ["empty", 0],
        "cfg_conds": 3.0,
        "cfg_cond2_negative": 3.0,
        "style": "regular",
    },
    "DualModelGuider": {
        "positive": ["caption", 0],
        "negative": ["empty", 0],
        "model_negative": ["model", 0],
        "cfg": 3.0,
    },
}


def guided(kind: str, **changes: Any) -> Workflow:
    """Return a workflow of one step on two pictures with a guider, of which `custom` is the sampler."""
    nodes = base(words="circle, square")
    nodes["latent"]["inputs"]["batch_size"] = 2
    scheduler = {"model": ["patched", 0], "scheduler": "normal", "steps": 1, "denoise": 1.0}
    links = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["euler", 0], "sigmas": ["sigmas", 0]}
    return nodes | {
        "other": node("CLIPTextEncode", clip=["model", 1], text="a blue square on the left"),
        "noise": node("RandomNoise", noise_seed=5),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", **scheduler),
        "guider": node(kind, model=["patched", 0], **{**GUIDERS[kind], **changes}),
        "custom": node("SamplerCustomAdvanced", **links, latent_image=["latent", 0]),
    }


def middle(record: dict[str, Any], name: str = "a") -> list[str]:
    """Return the line of the middle block in the statistics: calls, grid, and share of each word."""
    text: str = record["outputs"][f"{name} statistics"]["text"][0]
    (line,) = [line.split() for line in text.splitlines() if line.startswith("middle")]
    return line[1:5]


def test_every_guider_has_one_record_and_its_words_are_the_positive_prompts(host: Host) -> None:
    lines = {}
    for kind in GUIDERS:
        record = host.run(
            guided(kind) | readers("a", "custom") | {"x0": reader("PatchbayPatchReport", "custom", slot=1)}
        )
        lines[kind] = middle(record)
        assert record["outputs"]["x0"]["text"] == record["outputs"]["a report"]["text"]
    assert lines["CFGGuider"][:2] == ["1", "4x4"]
    assert set(map(tuple, lines.values())) == {tuple(lines["CFGGuider"])}


def test_a_prompt_with_a_hook_of_its_own_belongs_to_the_run(host: Host) -> None:
    hook = node("CreateHookLora", lora_name="one.safetensors", strength_model=1.0, strength_clip=1.0)
    hooked = node("ConditioningSetProperties", cond_NEW=["caption", 0], strength=1.0, set_cond_area="default")
    hooked["inputs"]["hooks"] = ["hook", 0]
    nodes = base() | {"hook": hook, "hooked": hooked, "one": sampler(seed=71)} | readers("a", "one")
    nodes["one"]["inputs"]["positive"] = ["hooked", 0]
    record = host.run(nodes)
    report = record["outputs"]["a report"]["text"][0]
    assert report.startswith(f"{2 * ATTENTIONS * 3} attention calls")  # a call for each set of hooks
    assert middle(record)[:2] == ["3", "4x4"]


def test_only_prompts_for_the_whole_picture_are_captured(host: Host) -> None:
    area = node("ConditioningSetArea", conditioning=["caption", 0], width=64, height=128, x=0, y=0, strength=1.0)
    both = node("ConditioningCombine", conditioning_1=["caption", 0], conditioning_2=["area", 0])
    nodes = base() | {"area": area, "both": both, "one": sampler(seed=72)} | readers("a", "one")
    for positive in ("both", "area"):
        nodes["one"]["inputs"]["positive"] = [positive, 0]
        record = host.run(nodes, "success" if positive == "both" else "error")
        if positive == "both":
            assert middle(record)[:2] == ["3", "4x4"]
    assert "a prompt for an area of the picture is not captured" in record["error"]["exception_message"]


def test_a_reference_of_another_size_is_no_part_of_the_capture(host: Host) -> None:
    where = {"blocks": "all", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    widgets = {"reference": ["wide", 0], "seed": 0, "negative": False, "strength": 1.0, **where}
    nodes = base() | {
        "wide": node("EmptyLatentImage", width=192, height=64, batch_size=1),
        "patched again": node("PatchbayReferenceAttention", model=["patched", 0], **widgets),
        "one": sampler(model="patched again", seed=73),
    }
    names = readers("a", "one")
    for reading in names.values():
        if "model" in reading["inputs"]:
            reading["inputs"]["model"] = ["patched again", 0]
    assert middle(host.run(nodes | names))[:2] == ["3", "4x4"]


def test_a_block_whose_grid_changes_is_summed_on_its_larger_one(host: Host) -> None:
    shrink = {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.5}
    shrink |= {"downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"}
    nodes = base()
    nodes["small"] = node("PatchModelAddDownscale", model=["model", 0], **shrink)
    nodes["patched"]["inputs"]["model"] = ["small", 0]
    nodes |= {"one": sampler(seed=74, steps=4)} | readers("a", "one")
    assert middle(host.run(nodes))[:2] == ["4", "4x4"]
