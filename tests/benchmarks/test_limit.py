"""The least time of a step: what it counts, and that attention is counted once, whatever would compute it."""

from __future__ import annotations

import limit
import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.basic import attention_basic
from limit import Attention, Speed, Work, best_speed, fastest, speed_of, work_of
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


def test_a_limit_is_the_fastest_round() -> None:
    ticks = iter([0.0, 5.0, 0.0, 1.0, 0.0, 3.0])
    left = iter([0.0, 0.1, 0.2, 2.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limit.time, "perf_counter", lambda: next(left))
        assert fastest(lambda: None, 1.0, lambda: next(ticks)) == 1.0


def test_a_call_longer_than_the_seconds_is_timed_once() -> None:
    calls = []
    assert fastest(lambda: calls.append(0), 0.0, iter([1.0, 4.0]).__next__) == 3.0
    assert calls == [0]


def test_the_speed_of_this_machine_is_a_positive_number() -> None:
    threads = torch.get_num_threads()
    assert min(speed_of(torch.float32, seconds=0.0)) > 0
    assert torch.get_num_threads() == threads


def test_a_dtype_without_units_is_held_against_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {torch.float32: Speed(75.0, 2.0), torch.bfloat16: Speed(0.9, 2.0), torch.float16: Speed(300.0, 2.0)}
    monkeypatch.setattr(limit, "speed_of", speeds.get)
    assert best_speed(torch.bfloat16).products == best_speed(torch.float32).products == 75.0
    assert best_speed(torch.float16).products == 300.0
