"""The mask nodes of the embedded host."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.headless.nodes.mask import InvertMask, MaskComposite, SolidMask

BELOW = torch.tensor([[[0.0, 0.25, 1.0], [0.5, 0.75, 1.0]]])


def test_a_solid_mask_and_its_inverse() -> None:
    mask = SolidMask.execute(0.25, 3, 2).args[0]
    assert mask.shape == (1, 2, 3) and (mask == 0.25).all()
    assert (InvertMask.execute(mask).args[0] == 0.75).all()


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("multiply", [[0.0, 0.125, 0.5], [0.5, 0.375, 0.5]]),
        ("add", [[0.0, 0.75, 1.0], [0.5, 1.0, 1.0]]),
        ("subtract", [[0.0, 0.0, 0.5], [0.5, 0.25, 0.5]]),
    ],
)
def test_masks_are_combined_where_the_source_lies(operation: str, expected: list[list[float]]) -> None:
    source = torch.full((1, 5, 5), 0.5)  # larger than what is left of the destination
    out = MaskComposite.execute(BELOW, source, 1, 0, operation).args[0]
    assert torch.equal(out, torch.tensor([expected]))
    assert BELOW[0, 0, 1] == 0.25


def test_logical_operations_round_first() -> None:
    a, b = torch.tensor([[[0.9, 0.9, 0.1, 0.1]]]), torch.tensor([[[0.8, 0.2, 0.8, 0.2]]])
    found = {name: MaskComposite.execute(a, b, 0, 0, name).args[0][0, 0].tolist() for name in ("and", "or", "xor")}
    assert found == {"and": [1, 0, 0, 0], "or": [1, 1, 1, 0], "xor": [0, 1, 1, 0]}


def test_a_source_outside_changes_nothing() -> None:
    assert torch.equal(MaskComposite.execute(BELOW, torch.ones(1, 2, 2), 9, 9, "add").args[0], BELOW)
