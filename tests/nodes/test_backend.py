from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.reading import report

from .conftest import NODES, last_run

AttentionBackend = NODES["PatchbayAttentionBackend"]
ALL = {"backend": "auto", "blocks": "all", "kind": "all", "start_percent": 0.0, "end_percent": 1.0}


def apply(model: Any, **widgets: Any) -> Any:
    (patched,) = AttentionBackend.execute(model=model, **(ALL | widgets)).result
    return patched


def functions(model: Any) -> dict[tuple[str, str], set[str]]:
    """Return the functions that ran in each (block, kind)."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in report.table(last_run(model)):
        found.setdefault((row["block"], row["attention"]), set()).add(row["function"])
    return found


def test_the_rule_holds_in_its_blocks_and_kind_only(model: Any, run: Callable) -> None:
    patched = apply(model, backend="basic", blocks="middle, output:1", kind="cross")
    run(patched)
    ran = functions(patched)
    assert {place for place, names in ran.items() if names == {"basic"}} == {("middle", "cross"), ("output:1", "cross")}
    assert len(ran) == 8


def test_the_last_node_that_fits_decides(model: Any, run: Callable) -> None:
    patched = apply(apply(model, backend="split"), backend="basic", blocks="middle")
    run(patched)
    assert functions(patched)["middle", "self"] == {"basic"}
    assert functions(patched)["input:1", "self"] == {"split"}


def test_a_row_of_the_report_names_the_rule_that_chose_its_function(model: Any, run: Callable) -> None:
    patched = apply(apply(model, backend="split"), backend="basic", blocks="middle", kind="cross")
    run(patched)
    rules = {
        (row["block"], row["attention"]): (row["function"], row["patches"], row["calls"])
        for row in report.table(last_run(patched))
    }
    assert rules["middle", "cross"] == ("basic", "backend basic on middle cross", 3)
    assert rules["middle", "self"] == ("split", "backend split on all", 3)


def test_the_window_switches_the_function_within_a_run(model: Any, run: Callable) -> None:
    patched = apply(model, backend="basic", end_percent=0.5)
    run(patched)
    assert all("basic" in names and len(names) == 2 for names in functions(patched).values())


def test_the_input_model_is_not_changed(model: Any, run: Callable) -> None:
    before = run(model)
    patched = apply(model, backend="basic")
    assert "optimized_attention_override" in patched.model_options["transformer_options"]
    assert "optimized_attention_override" not in model.model_options["transformer_options"]
    assert torch.equal(run(model), before)


@pytest.mark.parametrize(
    ("widgets", "reason"),
    [
        ({"blocks": "input:1, midle"}, "column 10"),
        ({"blocks": ""}, "write 'all'"),
        ({"blocks": "all self", "kind": "cross"}, "leave 'self' out"),
        ({"kind": "both"}, "all, self, cross"),
        ({"start_percent": math.nan}, "start_percent is nan"),
        ({"end_percent": math.inf}, "end_percent is inf"),
        ({"start_percent": 0.8, "end_percent": 0.2}, "swap"),
    ],
)
def test_wrong_widgets_are_refused_with_the_fix(widgets: dict[str, Any], reason: str) -> None:
    values = {name: value for name, value in (ALL | widgets).items() if name != "backend"}
    refusal = AttentionBackend.validate_inputs(**values)
    assert isinstance(refusal, str) and reason in refusal


def test_linked_and_missing_widgets_are_not_judged() -> None:
    linked = AttentionBackend.validate_inputs(blocks=None, kind="self", start_percent=None, end_percent=0.5)
    assert linked is True
    assert AttentionBackend.validate_inputs(blocks="middle") is True


def test_a_block_that_the_model_lacks_is_refused_with_those_it_has(model: Any) -> None:
    with pytest.raises(ValueError, match=r"output:7.*input:1, middle, output:0, output:1"):
        apply(model, blocks="output:7")
