"""The guidance nodes: neutral settings, the effect, and wrong widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.nodes.guidance import PerturbedGuidance, SmoothedGuidance, make_smoothed

WIDGETS: dict[str, Any] = {
    "scale": 2.0,
    "blocks": "middle",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "curve": "constant",
}
NODES = [(PerturbedGuidance, WIDGETS), (SmoothedGuidance, {**WIDGETS, "blur": 1000.0})]
each = pytest.mark.parametrize(("node", "widgets"), NODES, ids=["perturbed", "smoothed"])


def put(node: Any, model: Any, widgets: dict[str, Any]) -> Any:
    return node.execute(model=model, **widgets).args[0]


@each
def test_scale_0_changes_no_bit_and_scale_2_changes_the_result(
    node: Any, widgets: dict[str, Any], model: Any, run: Callable
) -> None:
    base = run(model)
    assert torch.equal(run(put(node, model, {**widgets, "scale": 0.0})), base)
    assert not torch.equal(run(put(node, model, widgets)), base)
    assert torch.equal(run(model), base)


@each
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"blocks": "nowhere"}, "blocks|nowhere"),
        ({"blocks": "middle cross"}, "says cross, but this is for self-attention"),
        ({"start_percent": 0.6, "end_percent": 0.2}, "swap them"),
        ({"curve": "zigzag"}, "curve"),
        ({"scale": float("nan")}, "scale is nan"),
    ],
)
def test_wrong_widgets_are_refused_with_the_reason(
    node: Any, widgets: dict[str, Any], wrong: dict[str, Any], reason: str
) -> None:
    answer = node.validate_inputs(**{**widgets, **wrong})
    assert isinstance(answer, str) and any(part in answer for part in reason.split("|"))
    assert node.validate_inputs(**widgets) is True and node.validate_inputs() is True


def test_the_largest_blur_is_the_mean() -> None:
    assert make_smoothed(blur=1000.0).weakening.sigma == float("inf")
    assert make_smoothed(blur=999.9).weakening.sigma == 999.9
    assert "blur is 0" in str(SmoothedGuidance.validate_inputs(blur=0.0))
