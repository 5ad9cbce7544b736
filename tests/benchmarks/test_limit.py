"""The least time of a step: what it counts, and that attention is counted once, whatever would compute it."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.basic import attention_basic
from limit import Attention, Speed, Work, medians, speed_of, work_of
from torch import nn

B, H, N, M, D = 2, 3, 20, 7, 8


@pytest.mark.parametrize("split", [False, True])
def test_products_and_exponentials_are_counted_by_their_formulas(split: bool) -> None:
    conv, linear = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(5, 11)
    shapes = (B, H, N, D), (B, H, M, D), (B, H, M, D)
    q, k, v = (torch.randn(shape if split else (shape[0], shape[2], H * D)) for shape in shapes)

    def step(attention: Attention) -> None:
        conv(torch.randn(B, 4, 10, 12))
        linear(torch.randn(B, 9, 5))
        out = attention(attention_basic, q, k, v, H, skip_reshape=split, skip_output_reshape=split)
        assert out.shape == q.shape

    products = 2 * B * 10 * 12 * 6 * 4 * 9 + 2 * B * 9 * 5 * 11 + 4 * B * H * N * M * D
    assert work_of(step) == Work(products, B * H * N * M)


def test_the_least_time_is_that_of_both() -> None:
    assert Work(30.0, 8.0).seconds(Speed(10.0, 4.0)) == 5.0


def test_a_median_leaves_out_the_round_that_warms_up() -> None:
    ticks = iter([0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 2.0])
    assert medians({"one": lambda: None}, 3, lambda: next(ticks)) == [2.0]


def test_the_speed_of_this_machine_is_a_positive_number() -> None:
    assert min(speed_of(torch.float32, rounds=1)) > 0
