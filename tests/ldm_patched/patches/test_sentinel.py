"""The NaN sentinel: what it notices, what it repairs, and what it leaves alone."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.routing.nan_guard import Sentinel, exact, finite, why_not
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from . import models
from .models import draw, last_run, patcher, unchanged

STEPS = 4  # a window of half a run has two
run = functools.partial(models.run, steps=STEPS)

MIDDLE = Where(parse("middle self"))


@pytest.fixture(params=[math.nan, math.inf])
def broken(request: pytest.FixtureRequest) -> Any:
    """Register a backend `basic` that spoils one number of its third call, and count its calls."""
    good = registry.get("basic")
    assert good is not None
    calls = []

    def function(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = good.function(*args, **kwargs)
        calls.append(out.shape)
        if len(calls) == 3:
            out[0, 1, 2] = request.param
        return out

    registry.register(replace(good, function=function))
    yield calls
    registry.register(good)


def test_a_spoiled_call_is_repaired_and_the_block_stays_exact(broken: list) -> None:
    base = run(patcher())
    model = attach(attach(patcher(), Rule("basic", MIDDLE)), Sentinel())
    out = run(model)
    assert (out - base).abs().max() < 1e-5 * base.abs().max()
    assert len(broken) == 3  # two good calls, the spoiled one, and none after it
    text = report.text(last_run(model))
    assert "Not finite in middle self at step 3 on basic, 1 times: split in float32 from there on." in text
    assert f"NaN guard repair on all: ran {10 * 2 * STEPS - 1} times in 10 of 10 blocks" in text
    rows = [row for row in report.table(last_run(model)) if row["block"] == "middle" and row["attention"] == "self"]
    assert [(row["function"], row["calls"], row["steps"]) for row in rows] == [
        ("basic", 3, "1-3"),
        ("split in float32", 1, "4"),
    ]


def test_the_next_run_begins_anew(broken: list) -> None:
    model = attach(attach(patcher(), Rule("basic", MIDDLE)), Sentinel())
    run(model)
    run(model)
    assert len(broken) == 3 + STEPS and "Not finite" not in report.text(last_run(model))


def test_check_reports_and_changes_nothing(broken: list) -> None:
    model = attach(attach(patcher(), Rule("basic", MIDDLE)), Sentinel("check"))
    assert not finite(run(model))
    assert "at step 3 on basic, 1 times: left as it is" in report.text(last_run(model))


def test_inputs_that_are_not_finite_are_no_fault_of_the_function() -> None:
    model = patcher()
    model.set_model_attn1_patch(lambda n, context, value, options: (n * math.nan, context, value))
    guarded = attach(model, Sentinel(where=Where(parse("input:1 self"))))
    run(guarded, steps=1)
    assert "on pytorch, 1 times: the inputs were not finite already" in report.text(last_run(guarded))


def test_finite_inputs_are_not_said_to_be_otherwise() -> None:
    q = torch.full((1, 4, 8), 1e20)
    hidden = torch.tensor([0.0, 0.0, -math.inf, -math.inf]).expand(4, 4)
    why = "the inputs were finite, but of numbers up to 1e+20 the scores overflow in float32 too"
    for mask in (None, hidden, hidden == 0.0):
        assert not finite(exact(q, q, q, 2, mask)) and why_not(q, q, q, 2, mask) == why
    spoiled = [(q, q * math.inf, q, 2), (q, q, q * math.nan, 2), (q, q, q, 2, -hidden), (q, q, q, 2, hidden * 0.0)]
    assert {why_not(*one) for one in spoiled} == {"the inputs were not finite already"}


def test_scores_that_overflow_are_said_in_the_report() -> None:
    model = patcher()
    model.set_model_attn1_patch(lambda n, context, value, options: (n * 1e25, context * 1e25, n))
    guarded = attach(model, Sentinel(where=Where(parse("input:1 self"))))
    run(guarded, steps=1)
    assert "the scores overflow in float32 too" in report.text(last_run(guarded))


def test_off_and_a_sound_run_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        for mode in ("repair", "check", "off"):
            assert torch.equal(run(attach(model, Sentinel(mode))), base)
    off = attach(attach(model, Sentinel()), Sentinel("off"))
    run(off)
    assert "NaN guard off on all: never ran, its settings change nothing" in report.text(last_run(off))


def test_only_the_addressed_attentions_are_watched(broken: list) -> None:
    model = attach(patcher(), Rule("basic", MIDDLE))
    assert not finite(run(attach(model, Sentinel(where=Where(parse("input, middle cross"))))))
    broken.clear()
    assert finite(run(attach(model, Sentinel(where=Where(parse("middle"))))))


def test_the_repair_is_attention_in_float32() -> None:
    q, k, v = (draw(seed, 2, 5, 32).half() * 30 for seed in range(3))
    mask = draw(3, 5, 5).half()
    out = exact(q, k, v, 4, mask, transformer_options={})
    split = [x.double().unflatten(-1, (4, -1)).transpose(1, 2) for x in (q, k, v)]
    scores = split[0] @ split[1].transpose(-1, -2) / math.sqrt(8) + mask.double()
    expected = (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)
    assert out.dtype == torch.float16 and (out.double() - expected).abs().max() < 0.05


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown mode 'fix'; choose one of repair, check, off"):
        Sentinel("fix")
    with pytest.raises(AddressError, match="no block 'input:9'"):
        attach(patcher(), Sentinel(where=Where(parse("input:9"))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", [None, (math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf)])
def test_a_sum_that_overflows_is_not_taken_for_infinity(dtype: torch.dtype, wrong: tuple[float, ...] | None) -> None:
    x = torch.full((2, 40), torch.finfo(dtype).max, dtype=dtype)
    for place, value in enumerate(wrong or ()):
        x[1, place] = value
    assert finite(x) == (wrong is None)
