"""`patchbay nodes --coverage`: which of the most used core nodes the embedded host runs."""

from __future__ import annotations

import json

import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.commands.coverage import LIST, coverage


def test_coverage_counts_what_runs_and_lists_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "--coverage"]) == 0
    text = capsys.readouterr().out
    assert main(["nodes", "--coverage", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["here"]["KSampler"] and "KSampler" not in found["missing"]
    assert len(found["here"]) + len(found["missing"]) == len(json.loads(LIST.read_text())["workflows"]) == 150
    assert text.startswith(f"{len(found['here'])} of the 150 most used core nodes")
    assert all(f"missing: {name} " in text for name in found["missing"])
    assert found["made"] in text


def test_the_share_is_that_of_the_nodes_that_are_known() -> None:
    names = list(json.loads(LIST.read_text())["workflows"])
    assert coverage(names).share == 1.0
    assert coverage(names[:75]).share == 0.5
    assert list(coverage(names[1:]).missing) == names[:1]
