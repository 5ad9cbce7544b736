"""Run the pack in a real ComfyUI server: loading, node info, help, refusals, and the example workflows' pictures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..examples import NEEDING_MODELS, RUNNABLE, api_form
from .comfyui_server import NAME, ROOT, Server
from .test_object_info import NODES, plain

pytestmark = pytest.mark.comfyui

EXAMPLES = [api_form(path) for path in RUNNABLE]
ONE_LEVEL = 1 / 255


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("comfyui") / "base") as running:
        yield running


def example(name: str = "demo", **changes: Any) -> dict[str, Any]:
    """Return an example workflow with inputs changed, each named `node__input`."""
    workflow = json.loads((ROOT / "example_workflows" / "api" / f"{name}.json").read_text())
    for key, value in changes.items():
        node, _, entry = key.partition("__")
        (wanted,) = [item for item in workflow.values() if item["class_type"] == node]
        if value is None:
            del wanted["inputs"][entry]
        else:
            wanted["inputs"][entry] = value
    return workflow


def picture(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255


def test_the_pack_loads_without_an_error(server: Server) -> None:
    assert server.errors() == []


def test_node_info_equals_the_embedded_hosts(server: Server) -> None:
    infos = server.get("/object_info")
    assert set(NODES) == {name for name in infos if name.startswith("Patchbay")}
    for name, mine in NODES.items():
        shared = mine.keys() & infos[name].keys()
        assert {"input", "input_order", "output", "output_name", "display_name", "category"} <= shared
        assert {key: plain(infos[name][key]) for key in shared} == {key: mine[key] for key in shared}


def test_the_page_and_the_help_are_served(server: Server) -> None:
    scripts = {path for path in server.get("/extensions") if NAME in path}
    assert scripts == {f"/extensions/{NAME}/{path.name}" for path in (ROOT / "web").glob("*.js")}
    # the page loads every one; the others only give functions to the first
    assert [path for path in scripts if "registerExtension" in server.read(path)] == [f"/extensions/{NAME}/index.js"]
    for name in NODES:
        assert server.read(f"/extensions/{NAME}/docs/{name}.md").startswith("# ")


@pytest.mark.parametrize("path", NEEDING_MODELS, ids=lambda path: path.stem)
def test_an_example_of_other_models_lacks_nothing_but_their_files(path: Path, server: Server) -> None:
    status, answer = server.post_prompt(json.loads(api_form(path).read_text()))
    wrong = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert status == 400 and wrong
    assert all(error["type"] == "value_not_in_list" and ".safetensors" in error["details"] for error in wrong)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_gives_the_picture_of_the_embedded_host(path: Path, server: Server, tmp_path: Path) -> None:
    record = server.run(json.loads(path.read_text()), tmp_path)
    assert record["status"] == "success", record["error"]
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli"]
    command += ["run", str(path), "--output", str(tmp_path / "embedded")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    saved = sorted(path for path in record["images"] if "_temp_" not in str(path))  # previews, which only a page shows
    pictures = saved, sorted((tmp_path / "embedded").glob("*.png"))
    for theirs, mine in zip(*pictures, strict=True):
        assert picture(theirs).std() > 0.05  # not blank
        assert np.abs(picture(theirs) - picture(mine)).mean() < ONE_LEVEL


def test_self_attention_guidance_is_that_of_comfyui(server: Server, tmp_path: Path) -> None:
    pictures = []
    settings = {"scale": 0.5, "blur": 1.3}  # the largest blur whose kernel ComfyUI does not cut at 9 pixels
    for name, inputs in (
        ("PatchbaySelfAttentionGuidance", settings | {"threshold": 1.0}),
        ("SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 1.3}),
    ):
        workflow = example("self_attention_guidance_sag_swg", KSampler__cfg=3.0)
        node = workflow["5"]
        node["inputs"] = (node["inputs"] if name == node["class_type"] else {"model": node["inputs"]["model"]}) | inputs
        node["class_type"] = name
        workflow["6"]["inputs"]["scale"] = 0.0
        (tmp_path / name).mkdir()
        record = server.run(workflow, tmp_path / name)
        assert record["status"] == "success", record["error"]
        pictures.append(picture(record["images"][0]))
    assert np.abs(pictures[0] - pictures[1]).mean() < ONE_LEVEL / 10


def test_the_translations_are_served(server: Server) -> None:
    served = server.get("/i18n")
    for language in ("en", "fr", "ja", "zh"):
        own = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())
        assert {name: served[language]["nodeDefs"][name] for name in own} == own


def test_the_report_reaches_the_page(server: Server, tmp_path: Path) -> None:
    record = server.run(example(KSampler__seed=11), tmp_path)
    (output,) = [output for output in record["outputs"].values() if "table" in output]
    assert "attention calls" in output["text"][0]
    assert sum(row["calls"] for row in output["table"]) == 2 * 7 * 20  # self and cross, 7 blocks, 20 steps


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PatchbayAttentionPatch__blocks": "middle, inptu:3"}, "column 9"),
        ({"PatchbayAttentionPatch__strength": math.nan}, "strength is nan"),
        ({"PatchbayAttentionPatch__value": math.inf}, "value is inf"),
        ({"PatchbayAttentionBackend__end_percent": math.nan}, "end_percent is nan"),
        ({"PatchbayAttentionPatch__slot": "attn1.v", "PatchbayAttentionPatch__operation": "temperature"}, "attn1.v"),
        ({"PatchbayAttentionBackend__backend": "warp"}, "not in"),
        ({"PatchbayAttentionBackend__blocks": None}, "Required input is missing"),
    ],
)
def test_wrong_widgets_are_refused_before_anything_runs(changes: dict[str, Any], reason: str, server: Server) -> None:
    status, answer = server.post_prompt(example(**changes))
    assert status == 400
    assert reason in json.dumps(answer["node_errors"])


@pytest.mark.parametrize(
    ("node", "widget", "value"),
    [
        ("PatchbayAttentionPatch", "blocks", "inptu:3"),
        ("PatchbayAttentionPatch", "curve", "zigzag"),
        ("PatchbayAttentionPatch", "channels", "x"),
        ("PatchbayAttentionPatch", "strength", 2.0),
        ("PatchbayAttentionBackend", "blocks", "inptu:3"),
    ],
)
def test_one_wrong_widget_is_one_error_on_that_widget(node: str, widget: str, value: Any, server: Server) -> None:
    status, answer = server.post_prompt(example(**{f"{node}__{widget}": value}))
    assert status == 400
    (refused,) = answer["node_errors"].values()
    (error,) = refused["errors"]
    assert error["extra_info"]["input_name"] == widget
    assert error["details"].startswith(f"{widget} - ")


def test_a_block_that_the_model_lacks_is_refused_before_sampling(server: Server, tmp_path: Path) -> None:
    record = server.run(example(PatchbayAttentionPatch__blocks="output:11"), tmp_path)
    assert record["status"] == "error"
    assert record["error"]["node_type"] == "PatchbayAttentionPatch"
    assert "input:3, input:5, middle, output:0, output:1, output:2, output:3" in record["error"]["exception_message"]
