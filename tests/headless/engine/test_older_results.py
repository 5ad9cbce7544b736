"""Results that outlive the run they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api import comfy_io as io
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor, Run
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.older_results import ENTRY, OlderResults

DEMO = json.loads((Path(__file__).parents[3] / "example_workflows" / "api" / "demo.json").read_text())
ANY = io.Schema(node_id="Any", display_name="", category="", description="", inputs=[], outputs=[])


def run(host: Executor, text: str, **sampler: Any) -> Run:
    prompt = json.loads(json.dumps(DEMO))
    (id,) = [id for id, node in prompt.items() if node["class_type"] == "KSampler"]
    prompt[id]["inputs"].update(steps=1, **sampler)
    prompt["2"]["inputs"]["text"] = text
    return host.run(prompt)


def test_a_text_is_encoded_once_whatever_ran_between(tmp_path: Path) -> None:
    folders = Folders(output=tmp_path, temp=tmp_path)
    host, fresh = (Executor(catalog(), Session(folders)) for _ in range(2))
    for text in ("a red circle", "a blue square", "a green triangle"):
        assert "2" in run(host, text).ran
    again = run(host, "a red circle", seed=7)
    assert {"1", "2", "3"} <= set(again.cached)
    pictures = [next(iter(one.ui.values()))["images"][0] for one in (again, run(fresh, "a red circle", seed=7))]
    one, other = ((tmp_path / entry["filename"]).read_bytes() for entry in pictures)
    assert one == other


def test_what_was_longest_of_no_use_goes_first() -> None:
    older = OlderResults(3 * (ENTRY + 4000))
    results = {name: io.NodeOutput([[torch.zeros(1000), {"pooled_output": None}]]) for name in "abcd"}
    for name in "abc":
        older.keep(name, results[name], ANY)
    assert older.get("a") is results["a"]
    older.keep("d", results["d"], ANY)
    assert [older.get(name) for name in "abcd"] == [results["a"], None, results["c"], results["d"]]
    older.keep("large", io.NodeOutput(torch.zeros(10_000)), ANY)
    assert older.get("large") is None and older.get("a") is results["a"]


def test_a_view_counts_as_what_it_holds() -> None:
    older = OlderResults()
    whole = torch.zeros(1000)
    older.keep("a", io.NodeOutput([whole[:1], whole[1:2]]), ANY)
    assert older.bytes == ENTRY + 4000


class Weights:
    """What a loader gives."""


KEPT_ELSEWHERE = {
    "a model": (io.NodeOutput(Weights()), ANY),
    "a model within": (io.NodeOutput([[torch.zeros(1), {"control": Weights()}]]), ANY),
    "a parameter": (io.NodeOutput(torch.nn.Parameter(torch.zeros(1))), ANY),
    "what is shown": (io.NodeOutput(1, ui={"text": ["1"]}), ANY),
    "a sampling": (
        io.NodeOutput({"samples": torch.zeros(1)}),
        io.Schema(
            node_id="S", display_name="", category="", description="", inputs=[io.Model.Input("model")], outputs=[]
        ),
    ),
}


@pytest.mark.parametrize("what", KEPT_ELSEWHERE)
def test_what_has_weights_a_folder_or_a_record_is_not_kept(what: str) -> None:
    older = OlderResults()
    result, schema = KEPT_ELSEWHERE[what]
    older.keep("a", result, schema)
    assert older.get("a") is None and older.bytes == 0
