"""The node for backend rules as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.nodes.rules import BackendRules

from .conftest import last_run


def ran(model: Any) -> dict[tuple[str, str], str]:
    return {(row["block"], row["attention"]): row["function"] for row in report.table(last_run(model))}


def test_the_first_rule_that_matches_chooses(model: Any, run: Callable) -> None:
    text = "input:1 self -> basic; input:1 -> split\nmiddle !self -> sub_quad; * -> pytorch"
    ruled = BackendRules.execute(model=model, rules=text).args[0]
    run(ruled)
    functions = ran(ruled)
    assert functions["input:1", "self"] == "basic" and functions["input:1", "cross"] == "split"
    assert functions["middle", "cross"] == "sub_quad" and functions["middle", "self"] == "pytorch"
    assert set(functions.values()) == {"basic", "split", "sub_quad", "pytorch"}


def test_a_later_node_refines_an_earlier_one_and_windows_hold(model: Any, run: Callable) -> None:
    first = BackendRules.execute(model=model, rules="* -> basic").args[0]
    second = BackendRules.execute(model=first, rules="middle -> split; middle -> sub_quad").args[0]
    run(second)
    assert ran(second)["middle", "self"] == "split" and ran(second)["input:1", "self"] == "basic"
    window = BackendRules.execute(model=model, rules="middle self 0-0% -> split").args[0]
    run(window)
    assert ran(window)["middle", "self"] == "pytorch"


def test_no_rule_changes_nothing(model: Any, run: Callable) -> None:
    base = run(model)
    assert torch.equal(run(BackendRules.execute(model=model, rules="# none").args[0]), base)


def test_a_wrong_rule_is_refused_with_its_place() -> None:
    assert BackendRules.validate_inputs(rules="* -> auto") is True and BackendRules.validate_inputs() is True
    answer = BackendRules.validate_inputs(rules="* -> auto\nmiddle -> fast")
    assert isinstance(answer, str) and "line 2, column 11: unknown attention function 'fast'" in answer
