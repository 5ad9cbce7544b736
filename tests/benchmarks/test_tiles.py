"""What the times of the tiles are made of."""

from __future__ import annotations

import torch
from tiles import medians


def test_a_median_leaves_out_the_round_that_warms_up() -> None:
    ticks = iter([0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 2.0])
    assert medians({"one": lambda: torch.empty(0)}, 3, lambda: next(ticks)) == [2.0]
