"""The skip nodes: neutral settings, the effect, and wrong widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.nodes.block_skip import BlockSkipNode, SkipGuidance

WIDGETS: dict[str, Any] = {"blocks": "middle", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
NODES = [
    (BlockSkipNode, {**WIDGETS, "strength": 1.0, "kind": "self"}, "strength"),
    (BlockSkipNode, {**WIDGETS, "strength": 1.0, "kind": "block"}, "strength"),
    (SkipGuidance, {**WIDGETS, "scale": 2.0}, "scale"),
]
each = pytest.mark.parametrize(("node", "widgets", "amount"), NODES, ids=["skip", "block", "guidance"])


def put(node: Any, model: Any, widgets: dict[str, Any]) -> Any:
    return node.execute(model=model, **widgets).args[0]


@each
def test_0_changes_no_bit_and_the_example_value_changes_the_result(
    node: Any, widgets: dict[str, Any], amount: str, model: Any, run: Callable
) -> None:
    base = run(model)
    assert torch.equal(run(put(node, model, {**widgets, amount: 0.0})), base)
    assert not torch.equal(run(put(node, model, widgets)), base)
    assert torch.equal(run(model), base)


@each
def test_wrong_widgets_are_refused_with_the_reason(node: Any, widgets: dict[str, Any], amount: str) -> None:
    wrong = [
        ({"blocks": "nowhere"}, "unknown block 'nowhere'"),
        ({"blocks": "middle cross"}, "says cross, but this is for "),
        ({"start_percent": 0.6, "end_percent": 0.2}, "swap them"),
        ({"curve": "zigzag"}, "curve"),
        ({amount: float("nan")}, f"{amount} is nan"),
    ]
    for change, reason in wrong:
        answer = node.validate_inputs(**{**widgets, **change})
        assert isinstance(answer, str) and reason in answer
    assert node.validate_inputs(**widgets) is True and node.validate_inputs() is True
