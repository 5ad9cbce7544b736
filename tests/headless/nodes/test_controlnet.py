"""ControlNet nodes: what they put on a conditioning, and workflows with a ControlNet file for the demo model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.workflow import PromptError, check
from attention_patchbay.headless.nodes import controlnet as nodes
from attention_patchbay.ldm_patched import demo
from attention_patchbay.ldm_patched.controlnet.cldm import ControlNet as ControlModel
from attention_patchbay.ldm_patched.controlnet.control import ControlNet
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def network() -> ControlModel:
    """Return a random ControlNet for the demo model's UNet."""
    torch.manual_seed(0)
    config = {k: v for k, v in demo.UNET.items() if k not in ("out_channels", "transformer_depth_output")}
    model = ControlModel(**config, hint_channels=3, operations=plain)
    for parameter in model.input_hint_block.parameters():
        if parameter.ndim == 4:
            parameter.data = torch.randn_like(parameter) * 2 / parameter[0].numel() ** 0.5
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, network: ControlModel) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "models" / "controlnet").mkdir(parents=True)
    (home / "input").mkdir()
    state = {f"control_model.{key}": value.half().contiguous() for key, value in network.state_dict().items()}
    save_file(state, home / "models" / "controlnet" / "random.safetensors")
    save_file({"body.0.in_conv.weight": torch.zeros(1)}, home / "models" / "controlnet" / "adapter.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (100, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(home / "input" / "hint.png")
    Image.fromarray(255 - pixels).save(home / "input" / "other.png")
    return home


@pytest.fixture
def control(network: ControlModel) -> ControlNet:
    return ControlNet(ModelPatcher(network, "cpu", "cpu"))


def workflow(apply: str | None, **changes: Any) -> dict[str, Any]:
    """Return a workflow of the demo model whose sampler is steered by an Apply node, or by none."""
    sampler = {"seed": 5, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    prompts = {"ControlNetApplyAdvanced": ("apply", "apply"), "ControlNetApply": ("apply", "empty")}
    positive, negative = prompts.get(apply or "", ("text", "empty"))
    sampler |= {"model": ["model", 0], "latent_image": ["latent", 0]}
    sampler |= {"positive": [positive, 0], "negative": [negative, int(negative == "apply")]}
    loader, hint = changes.pop("file", "random.safetensors"), changes.pop("hint", "hint.png")
    steering = {"control_net": ["net", 0], "image": ["hint", 0], "strength": 1.0}
    steering |= {"positive": ["text", 0], "negative": ["empty", 0], "start_percent": 0.0, "end_percent": 1.0}
    if apply == "ControlNetApply":
        steering = {name: steering[name] for name in ("control_net", "image", "strength")}
        steering["conditioning"] = ["text", 0]
    entries: dict[str, tuple[str, dict[str, Any]]] = {
        "model": ("PatchbayLoadDemoModel", {}),
        "text": ("CLIPTextEncode", {"clip": ["model", 1], "text": "a red circle on the left"}),
        "empty": ("CLIPTextEncode", {"clip": ["model", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "sampler": ("KSampler", sampler),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["model", 2]}),
        "show": ("PreviewImage", {"images": ["decode", 0]}),
    }
    if apply is not None:
        entries["net"] = ("ControlNetLoader", {"control_net_name": loader})
        entries["hint"] = ("LoadImage", {"image": hint})
        entries["apply"] = (apply, steering | changes)
    return {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in entries.items()}


def picture(home: Path, apply: str | None, **changes: Any) -> np.ndarray:
    folders = Folders(home / "models", home / "input", home / "output", home / "temp")
    session = Session(folders, unet_dtype=changes.pop("unet_dtype", None))
    with entered(session):
        run = Executor(catalog(), session).run(check(workflow(apply, **changes)))
    entry = run.ui["show"]["images"][0]
    return np.asarray(Image.open(folders.temp / entry["filename"]))


def test_strength_zero_changes_nothing_and_strength_one_does(home: Path) -> None:
    free = picture(home, None)
    for apply in ("ControlNetApply", "ControlNetApplyAdvanced"):
        assert np.array_equal(picture(home, apply, strength=0.0), free)
        assert np.abs(picture(home, apply).astype(int) - free).max() > 20


def test_the_hint_and_the_window_count(home: Path) -> None:
    free, steered = picture(home, None), picture(home, "ControlNetApplyAdvanced")
    assert not np.array_equal(picture(home, "ControlNetApplyAdvanced", hint="other.png"), steered)
    assert not np.array_equal(picture(home, "ControlNetApplyAdvanced", end_percent=0.4), steered)
    assert np.array_equal(picture(home, "ControlNetApplyAdvanced", start_percent=1.0), free)


def test_it_computes_in_the_dtype_of_the_session(home: Path) -> None:
    steered = picture(home, "ControlNetApplyAdvanced")
    rounded = picture(home, "ControlNetApplyAdvanced", unet_dtype=torch.bfloat16)
    assert not np.array_equal(rounded, steered)
    assert np.abs(rounded.astype(int) - steered).mean() < 5


def test_a_file_of_another_kind_is_refused_by_node_and_name(home: Path) -> None:
    with pytest.raises(Exception, match=r"adapter\.safetensors: body\.0\.out_conv\.weight is missing"):
        picture(home, "ControlNetApplyAdvanced", file="adapter.safetensors")
    with pytest.raises(PromptError, match="random.safetensor"):
        picture(home, "ControlNetApplyAdvanced", file="random.safetensor")


# On conditionings


def conditioning(**entries: Any) -> list[list[Any]]:
    return [[torch.zeros(1, 7, 16), entries]]


HINT = torch.rand(1, 8, 12, 3, generator=torch.Generator().manual_seed(0))


def advanced(positive: Any, negative: Any, control: ControlNet, strength: float = 0.5) -> Any:
    arguments = (positive, negative, control, HINT, strength, 0.1, 0.9)
    return nodes.ControlNetApplyAdvanced.execute(*arguments).args


def test_both_sides_get_the_same_use_with_the_settings(control: ControlNet) -> None:
    positive, negative = conditioning(pooled_output=1), conditioning()
    steered = advanced(positive, negative, control)
    use = steered[0][0][1]["control"]
    assert steered[1][0][1]["control"] is use and use is not control
    assert steered[0][0][1]["pooled_output"] == 1
    assert not steered[0][0][1]["control_apply_to_uncond"]
    assert use.strength == 0.5 and use.timestep_percent_range == (0.1, 0.9) and use.previous_controlnet is None
    assert torch.equal(use.cond_hint_original, HINT.movedim(-1, 1))
    assert "control" not in positive[0][1] and control.cond_hint_original is None


def test_a_second_one_goes_behind_each_first_one(control: ControlNet) -> None:
    first, other = control.copy(), control.copy()
    positive = conditioning(control=first) + conditioning(control=other)
    steered, negative = advanced(positive, conditioning(control=first), control)
    uses = [entry[1]["control"] for entry in (*steered, *negative)]
    assert [use.previous_controlnet for use in uses] == [first, other, first]
    assert uses[0] is uses[2] and uses[0] is not uses[1]


def test_the_old_node_is_for_both_sides_of_the_guidance(control: ControlNet) -> None:
    given = conditioning()
    (steered,) = nodes.ControlNetApply.execute(given, control, HINT, 0.7).args
    assert steered[0][1]["control_apply_to_uncond"]
    assert steered[0][1]["control"].timestep_percent_range == (0.0, 1.0)
    assert nodes.ControlNetApply.execute(given, control, HINT, 0.0).args == (given,)
    assert advanced(given, given, control, 0.0) == (given, given)


@pytest.mark.parametrize(("type", "expected"), [("auto", []), ("openpose", [0]), ("tile", [6]), ("repaint", [7])])
def test_a_union_network_is_told_the_kind(control: ControlNet, type: str, expected: list[int]) -> None:
    (told,) = nodes.SetUnionControlNetType.execute(control, type).args
    assert told.extra_args == {"control_type": expected}
    assert control.extra_args == {}
    assert told.copy().extra_args == told.extra_args
