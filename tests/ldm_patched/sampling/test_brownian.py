"""The Brownian path: independent of the order of queries, additive, and of the right variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.sampling.brownian import BrownianTree

SHAPE = torch.zeros(1, 4, 64, 64)


@pytest.fixture(scope="module")
def tree() -> BrownianTree:
    return BrownianTree(0.03, 14.6, SHAPE, 5)


def test_increments_add_up(tree: BrownianTree) -> None:
    whole = tree(0.5, 9.0)
    parts = tree(0.5, 1.234567) + tree(1.234567, 3.0) + tree(3.0, 9.0)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)
    assert torch.equal(tree(0.5, 9.0), whole)


@pytest.mark.parametrize(("start", "end"), [(0.03, 14.6), (0.5, 0.6), (3.0, 11.7), (0.0, 20.0)])
def test_variance_is_the_elapsed_time_inside_the_interval(tree: BrownianTree, start: float, end: float) -> None:
    elapsed = min(end, 14.6) - max(start, 0.03)
    assert float(tree(start, end).var()) == pytest.approx(elapsed, rel=0.05)


def test_disjoint_increments_are_independent(tree: BrownianTree) -> None:
    a, b = tree(0.4, 2.0).flatten(), tree(2.0, 7.0).flatten()
    assert abs(float(np.corrcoef(a, b)[0, 1])) < 0.03


def test_the_seed_decides() -> None:
    first, again, other = (BrownianTree(0.0, 1.0, SHAPE, seed)(0.2, 0.7) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert BrownianTree(0.0, 1.0, SHAPE.double(), 2**64 - 1)(0.1, 0.2).dtype == torch.float64
