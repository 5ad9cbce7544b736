"""The list of the most used core nodes: what counts, and in which order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attention_patchbay.tools.core_nodes import LENGTH, counted, listed


def workflow(*names: str, inner: tuple[str, ...] = ()) -> dict[str, Any]:
    graph = {"nodes": [{"type": name} for name in names]}
    return {**graph, "definitions": {"subgraphs": [{"nodes": [{"type": name} for name in inner]}]}}


def test_a_type_counts_once_for_each_image_workflow_subgraphs_included(tmp_path: Path) -> None:
    groups = [
        {"type": "image", "templates": [{"name": "a"}, {"name": "b"}, {"name": "gone"}]},
        {"type": "video", "templates": [{"name": "c"}]},
    ]
    files = {
        "index": groups,
        "a": workflow("X", "X", inner=("Y",)),
        "b": workflow("X"),
        "c": workflow("X", "Z"),
    }
    for name, data in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    assert counted(tmp_path) == {"X": 2, "Y": 1}


def test_used_types_come_first_then_those_of_unets_and_no_others() -> None:
    files = {"Mask": "mask", "Core": "nodes", "Math": "math", "Idle": "math", "Wan": "wan", "ModelNoiseScale": "nodes"}
    counts = {"Math": 3, "Mask": 1, "Wan": 9, "ModelNoiseScale": 9}
    assert listed(counts, files) == {"Math": 3, "Mask": 1, "Core": 0}
    many = {f"N{i}": "nodes" for i in range(2 * LENGTH)}
    assert len(listed({}, many)) == LENGTH
