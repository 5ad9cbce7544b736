"""What the table's cells are made of: the error of an attention, the best single function, and the rows."""

from __future__ import annotations

from typing import Any

import pytest
import table_rows
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.dispatch import optimized_attention
from attention_patchbay.ldm_patched.ldm.modules.backends.registry import AttentionCall
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.routing.tuning import Timing, Tuned
from table_columns import best_single
from table_listener import Listener, error_of

WRONG = 0.25


def heads_apart(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_error_is_that_against_float64_in_units_of_the_values(split: bool, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 3 * 8, generator=generator).double() for n in (40, 50, 50))
    v = 5.0 * v
    mask = torch.rand(40, 50, generator=generator) > 0.5 if masked else None
    a, b, c = (heads_apart(x, 3) for x in (q, k, v))
    scores = a @ b.transpose(2, 3) / 8**0.5
    out = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ c
    unit = float(v.square().mean().sqrt())
    out[1, 2, 39, 3] += WRONG * unit
    given = (a, b, c) if split else (q, k, v)
    result = out if split else out.transpose(1, 2).flatten(2)
    settings = {"mask": mask, "skip_reshape": split, "skip_output_reshape": split}
    assert error_of((*given, 3), settings, result) == pytest.approx(WRONG)
    result[0, 0] = torch.nan
    assert error_of((*given, 3), settings, result) == float("inf")


@pytest.mark.parametrize("overridden", [False, True])
def test_the_listener_hears_a_call_once_however_its_heads_are_given(overridden: bool) -> None:
    def again(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return func(*args, **kwargs)

    listener = Listener(errors=True)
    x = torch.randn(2, 20, 24, generator=torch.Generator().manual_seed(0))
    plain = {"sigmas": torch.ones(1), "block": ("input", 1), **({SLOT: again} if overridden else {})}

    def network(x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
        half = optimized_attention(x, x, x, 3, transformer_options=transformer_options)
        return half + optimized_attention(x, x, x, heads=3, transformer_options=transformer_options)

    model = Patched()
    listener.on(model)
    out = model.wrapper(network, x, transformer_options=plain)
    assert torch.equal(out, network(x, plain))
    assert len(listener.spans) == 2 and listener.worst.block == "input:1" and 0 < listener.worst.error < 1e-5


class Patched:
    """A patcher that keeps its wrapper."""

    def clone(self) -> Patched:
        return self

    def add_wrapper_with_key(self, place: str, key: str, wrapper: Any) -> None:
        self.wrapper = wrapper


def call(tokens: int) -> AttentionCall:
    return AttentionCall(2, 8, 8, tokens, tokens, 40, torch.float32, "cpu")


def test_the_best_single_function_has_the_least_time_in_all_calls() -> None:
    calls = {(BlockId("input", i), "self"): call(tokens) for i, tokens in enumerate((64, 1024))}
    few, many = calls
    times = {
        call(64): (Timing("split", 1.0, 0.0), Timing("pytorch", 2.0, 0.0), Timing("cpu_bf16", 0.1, 0.01)),
        call(1024): (Timing("pytorch", 10.0, 0.0), Timing("split", 12.0, 0.0), Timing("cpu_bf16", 1.0, 0.01)),
    }
    tuned = {one: Tuned(one, timings) for one, timings in times.items()}
    assert best_single({few: 1, many: 1}, calls, tuned, 1e-5) == "pytorch"
    assert best_single({few: 3, many: 1}, calls, tuned, 1e-5) == "split"
    assert best_single({few: 3, many: 1}, calls, tuned, 0.05) == "cpu_bf16"


def test_where_a_function_cannot_run_that_of_auto_counts() -> None:
    calls = {(BlockId("input", i), "self"): call(tokens) for i, tokens in enumerate((64, 1024))}
    times = {
        call(64): (Timing("pytorch", 2.0, 0.0),),
        call(1024): (Timing("split", 5.0, 0.0), Timing("pytorch", 6.0, 0.0)),
    }
    tuned = {one: Tuned(one, timings) for one, timings in times.items()}
    assert best_single(dict.fromkeys(calls, 1), calls, tuned, 1e-5) == "split"


@pytest.mark.parametrize(
    ("name", "latent"),
    [
        ("sd15-512", (1, 4, 8, 8)),
        ("sdxl-2048", (1, 4, 32, 32)),
        ("svd", (1, 4, 10, 16)),
        ("comfyui-flux", (1, 16, 16, 16)),
        ("comfyui-wan", (1, 16, 2, 8, 14)),
    ],
)
def test_a_small_row_is_an_eighth_of_the_sides_and_as_wide(name: str, latent: tuple[int, ...]) -> None:
    row, small = table_rows.ROWS[name], table_rows.ROWS[f"{name}-small"]
    assert small.latent == latent and small.config == row.config and small.text[1] == row.text[1]
    assert set(small.cut.values()) <= {1}


def test_the_blocks_are_said() -> None:
    flux = table_rows.ROWS["comfyui-flux"]
    assert flux.blocks(False) == "3 of 57 blocks" and flux.blocks(True) == "all blocks"
    assert table_rows.ROWS["sd15-512"].blocks(False) == "all blocks"
    assert [flux.dtype(device) for device in ("cpu", "cuda")] == ["float32", "bfloat16"]
