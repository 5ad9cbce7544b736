from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attention_patchbay.nodes.inspector import PatchInspector

from .test_report import MIDDLE, NEVER, patched


def test_it_lists_patches_before_and_after_a_run(model: Any, run: Callable) -> None:
    model = patched(model, MIDDLE, NEVER)
    report, table = PatchInspector.execute(model=model).result
    assert report.startswith("UNet model, 4 transformer blocks, 2 patches.")
    assert [row["calls"] for row in json.loads(table)] == [None, None]
    output = PatchInspector.execute(model=model, latent={"samples": run(model)})
    report, table = output.result
    assert "1 of them without effect" in report
    assert [bool(row["trouble"]) for row in json.loads(table)] == [False, True]
    assert output.ui is not None and output.ui["text"] == [report] and output.ui["table"] == json.loads(table)


def test_a_model_without_patches_is_no_error(model: Any) -> None:
    report, table = PatchInspector.execute(model=model).result
    assert report.endswith("0 patches.") and json.loads(table) == []
