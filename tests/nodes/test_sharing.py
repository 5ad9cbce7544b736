"""The sharing nodes: neutral settings, the effect, and wrong widgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.nodes.sharing import ReferenceAttention, StyleAlignedNode

from .conftest import draw

WIDGETS: dict[str, Any] = {
    "strength": 1.0,
    "blocks": "all",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "curve": "constant",
}
REFERENCE = {"samples": draw(9, 1, 4, 8, 8)}
each = pytest.mark.parametrize(
    ("node", "widgets", "sockets"),
    [
        (StyleAlignedNode, {**WIDGETS, "adain": True}, {}),
        (ReferenceAttention, {**WIDGETS, "seed": 3, "negative": False}, {"reference": REFERENCE}),
    ],
    ids=["style", "reference"],
)


def sample(model: Any) -> torch.Tensor:
    """Sample a batch of two."""
    positive, negative = [[draw(1, 1, 7, 16), {}]], [[draw(2, 1, 7, 16), {}]]
    noise = draw(0, 2, 4, 8, 8)
    return samplers.sample(model, noise, positive, negative, 4.0, 3, "euler", "normal", 1.0, seed=0)


@each
def test_strength_0_changes_no_bit_and_strength_1_changes_the_result(
    node: Any, widgets: dict[str, Any], sockets: dict[str, Any], model: Any
) -> None:
    def put(**changes: Any) -> Any:
        return node.execute(model=model, **sockets, **{**widgets, **changes}).args[0]

    base = sample(model)
    assert torch.equal(sample(put(strength=0.0)), base)
    assert not torch.equal(sample(put()), base)
    assert torch.equal(sample(model), base)


@each
def test_wrong_widgets_are_refused_with_the_reason(node: Any, widgets: dict[str, Any], sockets: dict[str, Any]) -> None:
    wrong = [
        ({"blocks": "nowhere"}, "unknown block 'nowhere'"),
        ({"blocks": "middle cross"}, "says cross, but this is for self-attention"),
        ({"start_percent": 0.6, "end_percent": 0.2}, "swap them"),
        ({"curve": "zigzag"}, "curve"),
        ({"strength": float("nan")}, "strength is nan"),
    ]
    for change, reason in wrong:
        answer = node.validate_inputs(**{**widgets, **change})
        assert isinstance(answer, str) and reason in answer
    assert node.validate_inputs(**widgets) is True and node.validate_inputs() is True


def test_a_reference_that_is_no_picture_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="give a latent of pictures"):
        ReferenceAttention.execute(
            model=model, reference={"samples": draw(0, 1, 4, 2, 8, 8)}, seed=0, negative=False, **WIDGETS
        )
