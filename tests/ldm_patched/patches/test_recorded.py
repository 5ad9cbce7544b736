"""Attention functions held against float64 on a model's own tensors, and the parts of a run that come of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.ldm.modules.backends.registry import AttentionCall
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.engine.choice import Arguments
from attention_patchbay.ldm_patched.patches.routing.recorded import Recorder, StepErrors, errors_of
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.patches.routing.rules import rules_text
from attention_patchbay.ldm_patched.patches.routing.tuned_rules import write_rules
from attention_patchbay.ldm_patched.patches.routing.tuning import Timing, Tuned

from ...unets import draw

CALL = AttentionCall(2, 4, 4, 96, 77, 16, torch.float32, "cpu")
MIDDLE, INPUT = (BlockId("middle", 0), "self"), (BlockId("input", 1), "self")


def rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `split` give what bfloat16 keeps of its result."""
    split = registry._registry["split"]

    def function(*args: Any, **kwargs: Any) -> torch.Tensor:
        return split.function(*args, **kwargs).bfloat16().float()

    changed = {"split": type(split)(**{**vars(split), "function": function})}
    monkeypatch.setattr(registry, "_registry", {**registry._registry, **changed})


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
    """Return attention in float64 of (b, h, n, d) tensors."""
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
    return scores.softmax(-1) @ v.double()


@pytest.mark.parametrize("split_heads", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_error_is_that_against_float64_in_units_of_the_values(
    monkeypatch: pytest.MonkeyPatch, split_heads: bool, masked: bool
) -> None:
    rounded(monkeypatch)
    q, k, v = 3 * draw(0, 2, 4, 24, 8), draw(1, 2, 4, 20, 8), 50 * draw(2, 2, 4, 20, 8)
    mask = draw(3, 24, 20) if masked else None
    truth = by_hand(q, k, v, 0.0 if mask is None else mask.double())
    expected = (truth.float().bfloat16().double() - truth).abs().max() / v.double().square().mean().sqrt()
    given: Any = (q, k, v) if split_heads else [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
    found = errors_of(Arguments((*given, 4), {"mask": mask, "skip_reshape": split_heads, "transformer_options": {}}))
    assert found["split"] == pytest.approx(expected.item(), rel=1e-3)
    assert found["pytorch"] < 1e-5 < found["split"] and "basic" not in found


def test_a_function_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    split = registry._registry["split"]
    changed = {"split": type(split)(**{**vars(split), "function": fails})}
    monkeypatch.setattr(registry, "_registry", {**registry._registry, **changed})
    q = draw(0, 1, 2, 8, 4)
    found = errors_of(Arguments((q, q, q, 2), {"skip_reshape": True}))
    assert "split" not in found and "pytorch" in found and "no kernel image" in caplog.text


def errors(*steps: tuple[float, dict[str, float]], attention: Any = MIDDLE) -> StepErrors:
    found = StepErrors()
    for step, (percent, values) in enumerate(steps, 1):
        found.note(attention, step, percent, values)
    return found


TUNED = Tuned(CALL, (Timing("split", 1.0, 1e-6), Timing("sub_quad", 1.5, 1e-6), Timing("pytorch", 2.0, 1e-7)))


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([1e-5, 1e-5, 1e-5], "middle.0 self -> split"),
        ([1e-1, 1e-5, 1e-5], "middle.0 self 0-25% -> sub_quad\nmiddle.0 self 25-100% -> split"),
        ([1e-5, 1e-5, 1e-1], "middle.0 self 0-25% -> split\nmiddle.0 self 25-100% -> sub_quad"),
        ([1e-5, 1e-1, 1e-5], "middle.0 self 0-60% -> sub_quad\nmiddle.0 self 60-100% -> split"),
        ([math.inf, math.inf, math.inf], "middle.0 self -> sub_quad"),
    ],
)
def test_a_function_gets_the_part_of_the_run_where_it_keeps_the_bound_at_both_ends(
    steps: list[float], text: str
) -> None:
    percents = (0.0, 0.25, 0.6)
    values = [{"split": error, "sub_quad": 1e-6} for error in steps]
    found = errors(*zip(percents, values, strict=True))
    rules = write_rules({MIDDLE: CALL}, [TUNED], 1e-3, recorded=found)
    assert rules_text(rules) == f"{text}\nall -> auto"


def test_layers_of_one_shape_may_differ() -> None:
    found = errors((0.0, {"split": 1e-1, "sub_quad": 1e-1}))
    found.note(INPUT, 1, 0.0, {"split": 1e-6})
    rules = write_rules({MIDDLE: CALL, INPUT: CALL}, [TUNED], 1e-3, recorded=found)
    assert rules_text(rules) == "input:1.0 self -> split\nall -> auto"
    assert write_rules({MIDDLE: CALL}, [TUNED], 1e-3, recorded=found) == (Rule("auto"),)


def test_the_largest_of_several_calls_counts_and_the_worst_is_told() -> None:
    found = errors((0.0, {"split": 1e-3}), (0.5, {"split": 2e-3}))
    found.note(MIDDLE, 1, 0.0, {"split": 5e-3})
    found.note(MIDDLE, 1, 0.0, {"split": 1e-6})
    assert found.worst() == {"split": (5e-3, MIDDLE, 1)}
    assert "2 steps" in found.text() and "5.0e-03   middle self, step 1" in found.text()


def test_the_host_can_stop_it() -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        Recorder(stop).settle(draw(0, 1), None, MIDDLE, 1, None, Arguments((), {}))  # type: ignore[arg-type]
