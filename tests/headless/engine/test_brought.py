"""Inputs that others bring, and inputs that are only run when they are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor, Run
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.workflow import PromptError, check

NODES = catalog()
PICTURE = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 4, "batch_size": 1, "color": 255}}
RED = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 4, "batch_size": 2, "color": 0xFF0000}}


def shown(node: dict[str, Any], **others: Any) -> Run:
    """Run a node, of which the first output is shown."""
    prompt = {"a": PICTURE, "b": RED, "n": node, "out": {"class_type": "PreviewAny", "inputs": {"source": ["n", 0]}}}
    return Executor(NODES, Session()).run(check({**prompt, **others}))


def text(run: Run) -> str:
    return run.ui["out"]["text"][0]


def size_of(node: dict[str, Any], **others: Any) -> str:
    sizes = {"s": {"class_type": "GetImageSize", "inputs": {"image": ["n", 0]}}}
    shows = {
        name: {"class_type": "PreviewAny", "inputs": {"source": ["s", slot]}}
        for slot, name in enumerate(("width", "height", "batch"))
    }
    run = shown(node, **sizes, **shows, **others)
    return " ".join(run.ui[name]["text"][0] for name in shows)


def test_inputs_that_grow_come_as_one() -> None:
    node = {"class_type": "BatchImagesNode", "inputs": {"images.image0": ["a", 0], "images.image1": ["b", 0]}}
    assert size_of(node) == "8 4 3"


def test_one_that_is_needed_is_missed_and_an_unknown_one_refused() -> None:
    with pytest.raises(PromptError, match=r"Required input is missing: images\.image0"):
        shown({"class_type": "BatchImagesNode", "inputs": {}})
    with pytest.raises(PromptError, match=r"no such input: images\.image50"):
        shown({"class_type": "BatchImagesNode", "inputs": {"images.image0": ["a", 0], "images.image50": ["b", 0]}})
    with pytest.raises(PromptError, match=r"images\.image0, received_type\(STRING\) mismatch input_type\(IMAGE\)"):
        shown({"class_type": "BatchImagesNode", "inputs": {"images.image0": ["t", 0]}}, t=TEXT)


TEXT = {"class_type": "PrimitiveString", "inputs": {"value": "x"}}


def test_a_choice_brings_its_inputs() -> None:
    inputs: dict[str, Any] = {"input": ["a", 0], "scale_method": "area", "resize_type": "scale width"}
    node = {"class_type": "ResizeImageMaskNode", "inputs": {**inputs, "resize_type.width": 24}}
    assert size_of(node) == "24 12 1"
    with pytest.raises(PromptError, match=r"Required input is missing: resize_type\.width"):
        shown({"class_type": "ResizeImageMaskNode", "inputs": inputs})
    with pytest.raises(PromptError, match=r"resize_type: 'scale widt' not in .*did you mean scale width"):
        shown({"class_type": "ResizeImageMaskNode", "inputs": {**inputs, "resize_type": "scale widt"}})
    with pytest.raises(PromptError, match=r"input, received_type\(STRING\) mismatch input_type\(IMAGE,MASK\)"):
        shown({"class_type": "ResizeImageMaskNode", "inputs": {**node["inputs"], "input": ["t", 0]}}, t=TEXT)


@pytest.mark.parametrize("switch", [True, False, ["flag", 0]])
def test_only_the_chosen_side_of_a_switch_runs(switch: Any) -> None:
    inputs = {"switch": switch, "on_true": ["a", 0], "on_false": ["b", 0]}
    flag = {"class_type": "PrimitiveBoolean", "inputs": {"value": False}}
    run = shown({"class_type": "ComfySwitchNode", "inputs": inputs}, flag=flag)
    chosen, other = ("a", "b") if switch is True else ("b", "a")
    assert chosen in run.ran and other not in run.ran
    assert str(torch.zeros(1)) not in text(run)


def test_a_choice_of_ones_own_and_values_of_several_types_pass() -> None:
    combo = {"class_type": "CustomCombo", "inputs": {"choice": "blue", "index": 1, "option1": "red", "option2": "blue"}}
    assert text(shown(combo)) == "blue"
    assert text(shown({"class_type": "ComfyNumberConvert", "inputs": {"value": "7"}})) == "7.0"
