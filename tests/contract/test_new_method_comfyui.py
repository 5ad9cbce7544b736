"""Drop a new method in as one file: a real ComfyUI server has its node, runs it, and reports it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .comfyui_server import Server
from .recorded import base, reader, sampler
from .test_new_method import METHOD, ROOT
from .workflows import node

pytestmark = pytest.mark.comfyui
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "tests", "docs", "example_workflows", "__pycache__", "*.egg-info")


def test_it_is_a_node_that_runs_and_is_reported(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(ROOT, pack, ignore=LEFT_OUT)
    (pack / "ldm_patched" / "patches" / "methods" / "uniform_guidance.py").write_text(METHOD)
    place = {"blocks": "middle", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
    nodes = base() | {"new": node("PatchbayUniformGuidance", model=["patched", 0], scale=2.0, **place)}
    nodes |= {"one": sampler(model="new"), "report": reader("PatchbayPatchReport", "one", model="new")}
    with Server(tmp_path / "base", pack=pack) as server:
        assert server.errors() == []
        info = server.get("/object_info/PatchbayUniformGuidance")["PatchbayUniformGuidance"]
        record = server.run(nodes, tmp_path)
    assert info["display_name"] == "Uniform Attention Guidance"
    assert info["input_order"]["required"] == ["model", "scale", *place]
    assert record["status"] == "success", record["error"]
    said = "2. uniform attention guidance scale 2 on middle: ran 3 times in 1 of 1 blocks"
    assert said in record["outputs"]["report"]["text"][0].splitlines()
    shutil.rmtree(pack)
