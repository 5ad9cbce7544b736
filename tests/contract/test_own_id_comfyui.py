"""A node that is shown what a run gives is shown it under the id that it has now, whatever the host's cache keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .comfyui_server import ROOT, Server

pytestmark = pytest.mark.comfyui
SHOWN = {
    "region_by_word": "PatchbayLiveRegion",
    "word_mask_by_word": "PatchbayLiveWordMask",
    "attention_maps_heatmap": "PatchbayCaptureAttention",
    "block_map": "PatchbayBlockMap",
}
STEPS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("comfyui") / "base") as running:
        yield running


def example(name: str) -> dict[str, Any]:
    """Return an example of few steps; the map of blocks hands its model to the sampler."""
    graph: dict[str, Any] = json.loads((ROOT / "example_workflows" / "api" / f"{name}.json").read_text())
    maps = [id for id, node in graph.items() if node["class_type"] == "PatchbayBlockMap"]
    for node in graph.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = STEPS
            if maps:
                node["inputs"]["model"] = [maps[0], 2]
    return graph


def renamed(graph: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Return a workflow whose node has another id, as of a copy or in a subgraph."""
    found = {new if id == old else id: json.loads(json.dumps(node)) for id, node in graph.items()}
    for node in found.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == old:
                node["inputs"][name] = [new, value[1]]
    return found


@pytest.mark.parametrize("name", SHOWN)
def test_a_copy_under_another_id_is_shown_its_run(name: str, server: Server, tmp_path: Path) -> None:
    graph = example(name)
    old = next(id for id, node in graph.items() if node["class_type"] == SHOWN[name])
    for id in (old, "77", "20:5"):
        record = server.run(renamed(graph, old, id), tmp_path, "a page")
        assert record["status"] == "success", record["error"]
        assert id in record["ran"]
        assert [message["node"] for message in server.get(f"/patchbay/attention?node={id}")] == [id]
    again = server.run(renamed(graph, old, "20:5"), tmp_path, "a page")
    assert not {"20:5"} & {id for id in again["ran"] if SHOWN[name] != "PatchbayBlockMap"}, "the same node is cached"
