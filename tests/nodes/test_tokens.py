"""The nodes for fewer tokens: neutral settings, the effect, and wrong widgets."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.nodes import temperature, tokens
from attention_patchbay.nodes.temperature import AttentionTemperatureNode
from attention_patchbay.nodes.tokens import KeyValueDownsamplingNode, TiledAttentionNode, TokenMergingNode

WINDOW = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
CASES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [  # node, what it needs to act, what makes it neutral
    (TokenMergingNode, {"ratio": 0.5, "destination": "random"}, {"ratio": 0.0}),
    (TiledAttentionNode, {"tile_size": 32, "swap": 1}, {"tile_size": 0}),
    (KeyValueDownsamplingNode, {"factor": 2, "method": "mean"}, {"factor": 1}),
    (
        AttentionTemperatureNode,
        {"temperature": 0.5, "trained_width": 0, "trained_height": 0, "kind": "all"},
        {"temperature": 1.0},
    ),
]
CASES = [(node, {**own, "blocks": "all", **WINDOW}, neutral) for node, own, neutral in CASES]
each = pytest.mark.parametrize(("node", "widgets", "neutral"), CASES, ids=lambda value: getattr(value, "__name__", ""))


def put(node: Any, model: Any, widgets: dict[str, Any]) -> Any:
    return node.execute(model=model, **widgets).args[0]


@each
def test_neutral_widgets_change_no_bit_and_others_change_the_result(
    node: Any, widgets: dict[str, Any], neutral: dict[str, Any], model: Any, run: Callable
) -> None:
    base = run(model)
    assert torch.equal(run(put(node, model, {**widgets, **neutral})), base)
    assert not torch.equal(run(put(node, model, widgets)), base)
    assert torch.equal(run(model), base)


@each
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"blocks": "nowhere"}, "nowhere"),
        ({"start_percent": 0.6, "end_percent": 0.2}, "swap them"),
        ({"curve": "zigzag"}, "curve"),
    ],
)
def test_wrong_widgets_are_refused_with_the_reason(
    node: Any, widgets: dict[str, Any], neutral: dict[str, Any], wrong: dict[str, Any], reason: str
) -> None:
    answer = node.validate_inputs(**{**widgets, **wrong})
    assert isinstance(answer, str) and reason in answer
    assert node.validate_inputs(**widgets) is True and node.validate_inputs() is True


@pytest.mark.parametrize(
    ("node", "wrong", "reason"),
    [
        (TokenMergingNode, {"ratio": math.nan}, "ratio is nan"),
        (TokenMergingNode, {"destination": "left"}, "unknown destination 'left'"),
        (TokenMergingNode, {"blocks": "all cross"}, "says cross, but this is for self-attention"),
        (TiledAttentionNode, {"tile_size": 4}, "tile_size is 4"),
        (KeyValueDownsamplingNode, {"factor": 0}, "factor is 0"),
        (AttentionTemperatureNode, {"temperature": 0.0}, "temperature is 0"),
        (AttentionTemperatureNode, {"trained_width": 512, "trained_height": 0}, "the trained size is 512x0"),
        (AttentionTemperatureNode, {"kind": "both"}, "unknown kind 'both'"),
        (AttentionTemperatureNode, {"blocks": "all cross", "kind": "self"}, "says cross, but this is for self"),
    ],
)
def test_own_widgets_are_checked(node: Any, wrong: dict[str, Any], reason: str) -> None:
    answer = node.validate_inputs(**wrong)
    assert isinstance(answer, str) and reason in answer


def test_a_linked_side_of_the_trained_size_leaves_the_other_unjudged() -> None:
    assert AttentionTemperatureNode.validate_inputs(trained_width=512) is True


@pytest.mark.parametrize(
    ("node", "make"),
    [
        (TokenMergingNode, tokens.make_merging),
        (TiledAttentionNode, tokens.make_tiles),
        (KeyValueDownsamplingNode, tokens.make_downsampling),
        (AttentionTemperatureNode, temperature.make),
    ],
)
def test_the_widgets_and_the_function_behind_them_have_the_same_defaults(node: Any, make: Callable) -> None:
    inputs = node.GET_NODE_INFO_V1()["input"]["required"]
    widgets = {name: settings["default"] for name, (_, settings) in inputs.items() if name != "model"}
    parameters = inspect.signature(make).parameters
    assert widgets == {name: parameter.default for name, parameter in parameters.items()}
    assert list(widgets) == list(parameters)
    assert not make().neutral
