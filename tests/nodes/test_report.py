from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from attention_patchbay.nodes.report import PatchReport

from .conftest import NODES

WIDGETS = {"slot": "attn1.out", "operation": "zero", "value": 1.0, "strength": 1.0, "curve": "constant"}
MIDDLE = WIDGETS | {"blocks": "middle", "start_percent": 0.0, "end_percent": 1.0}
NEVER = WIDGETS | {"blocks": "output:1", "start_percent": 0.0, "end_percent": 0.0}


def patched(model: Any, *patches: dict[str, Any]) -> Any:
    for widgets in patches:
        (model,) = NODES["PatchbayAttentionPatch"].execute(model=model, **widgets).result
    return model


def test_it_tells_what_ran_and_what_never_did(model: Any, run: Callable) -> None:
    model = patched(model, MIDDLE, NEVER)
    output = PatchReport.execute(model=model, latent={"samples": run(model)})
    (text,) = output.result
    lines = text.splitlines()
    (ran,) = [line for line in lines if line.startswith("1. ")]
    (never,) = [line for line in lines if line.startswith("2. ")]
    assert "ran 3 times" in ran
    assert "never ran" in never


def test_the_page_gets_the_text_and_a_table_of_plain_values(model: Any, run: Callable) -> None:
    model = patched(model, MIDDLE)
    output = PatchReport.execute(model=model, latent={"samples": run(model)})
    assert output.ui is not None
    assert output.ui["text"] == list(output.result)
    (able,) = json.loads(json.dumps(output.ui["host"]))
    assert able["override"] and not able["containers"] and "pytorch" in able["functions"]
    assert output.result[0].splitlines()[-1].startswith("On the host without ComfyUI: override yes, containers no")
    rows = json.loads(json.dumps(output.ui["table"]))
    assert sum(row["calls"] for row in rows) == 2 * 4 * 3  # self and cross, blocks, steps
    assert {row["block"] for row in rows} == {"input:1", "middle", "output:0", "output:1"}


def test_a_model_without_patches_has_nothing_to_report(model: Any, run: Callable) -> None:
    output = PatchReport.execute(model=model, latent={"samples": run(model)})
    assert "no Patchbay patch" in output.result[0]
    assert output.ui is not None and output.ui["table"] == []


def test_a_model_that_was_not_sampled_says_so(model: Any) -> None:
    output = PatchReport.execute(model=patched(model, MIDDLE), latent={"samples": torch.zeros(1, 4, 8, 8)})
    first, *rest = output.result[0].splitlines()
    assert first.startswith("No run was recorded: no run is known that gave this latent: it was not sampled with this")
    assert rest == ["1. zero attn1.out on middle"]
