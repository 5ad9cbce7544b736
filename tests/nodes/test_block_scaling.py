"""The block scaling nodes: neutral settings, the effect, and wrong widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.nodes.block_scaling import BlockScaleNode, FreeUNode

WIDGETS: dict[str, Any] = {
    "strength": 1.0,
    "blocks": "output",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "curve": "constant",
}
FREEU = {**WIDGETS, "b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2, "version": "2"}
SCALE = {**WIDGETS, "backbone": 1.2, "skip": 0.8}
each = pytest.mark.parametrize(
    ("node", "widgets"), [(FreeUNode, FREEU), (BlockScaleNode, SCALE)], ids=["freeu", "scale"]
)


def put(node: Any, model: Any, widgets: dict[str, Any]) -> Any:
    return node.execute(model=model, **widgets).args[0]


@each
def test_strength_0_changes_no_bit_and_strength_1_changes_the_result(
    node: Any, widgets: dict[str, Any], model: Any, run: Callable
) -> None:
    base = run(model)
    assert torch.equal(run(put(node, model, {**widgets, "strength": 0.0})), base)
    assert not torch.equal(run(put(node, model, widgets)), base)
    assert torch.equal(run(model), base)


@each
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"blocks": "nowhere"}, "unknown block 'nowhere'"),
        ({"blocks": "output self"}, "says self, but this is for whole blocks"),
        ({"start_percent": 0.6, "end_percent": 0.2}, "swap them"),
        ({"curve": "zigzag"}, "curve"),
        ({"strength": float("nan")}, "strength is nan"),
    ],
)
def test_wrong_widgets_are_refused_with_the_reason(
    node: Any, widgets: dict[str, Any], wrong: dict[str, Any], reason: str
) -> None:
    answer = node.validate_inputs(**{**widgets, **wrong})
    assert isinstance(answer, str) and reason in answer
    assert node.validate_inputs(**widgets) is True and node.validate_inputs() is True


def test_the_version_decides(model: Any, run: Callable) -> None:
    assert not torch.equal(run(put(FreeUNode, model, {**FREEU, "version": "1"})), run(put(FreeUNode, model, FREEU)))
    assert "FreeU works on output blocks" in str(FreeUNode.validate_inputs(**{**FREEU, "blocks": "all"}))
