"""Compare the embedded host's core nodes with ComfyUI's: inputs in their order, types, ranges and defaults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.engine.catalog import CORE
from attention_patchbay.headless.nodes.declared import Nodes

pytestmark = pytest.mark.comfyui
OURS = {cls.GET_SCHEMA().node_id: cls.GET_NODE_INFO_V1() for cls in [node for room in CORE for node in room.NODES]}
DECLARED = [cls.GET_SCHEMA().node_id for room in CORE if isinstance(room.NODES, Nodes) for cls in room.NODES]
SETTINGS = ("default", "min", "max", "step", "round", "multiline", "control_after_generate", "image_upload")
FILES = (
    "ckpt_name",
    "unet_name",
    "lora_name",
    "model_path",
    "clip_name",
    "image",
    "control_net_name",
    "vae_name",
    "clip_name1",
    "clip_name2",
    "gligen_name",
    "model_name",
    "latent",
    "config_name",
    "hypernetwork_name",
    "style_model_name",
)  # depend on the folders of the host


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    child = Path(__file__).with_name("core_info_child.py")
    environment = {**os.environ, "PYTHONPATH": os.environ["COMFYUI_PATH"]}
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), str(child), *OURS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=os.environ["COMFYUI_PATH"])
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def described(entry: Any) -> tuple[str, Any, dict[str, Any]]:
    """Return type, choices and settings of an input in either way to write it."""
    kind, settings = entry[0], entry[1] if len(entry) > 1 else {}
    choices = kind if isinstance(kind, list) else settings.get("options")
    if kind == "COMFY_DYNAMICCOMBO_V3":
        choices = [json.dumps([option["key"], *inner(option["inputs"])]) for option in choices]
    kept = {key: settings[key] for key in SETTINGS if settings.get(key) not in (None, False)}
    return "COMBO" if isinstance(kind, list) else kind, choices, kept


def inner(groups: dict[str, Any]) -> list[Any]:
    """Return the inputs that an option brings, in their order."""
    return [[group, name, described(entry)] for group, entries in groups.items() for name, entry in entries.items()]


@pytest.mark.parametrize("name", OURS)
def test_a_core_node_takes_and_gives_what_comfyuis_does(name: str, theirs: dict[str, Any]) -> None:
    ours, real = OURS[name], theirs[name]
    for kind in ("required", "optional"):
        mine = list(ours["input"].get(kind, {}).items())
        assert [key for key, _ in mine] == [key for key, _ in real[kind]]
        for (key, entry), (_, real_entry) in zip(mine, real[kind], strict=True):
            type, choices, settings = described(entry)
            real_type, real_choices, real_settings = described(real_entry)
            assert (key, type, settings) == (key, real_type, real_settings)
            if choices is not None and key not in FILES:
                assert set(choices) <= set(real_choices), key
                assert [choice for choice in real_choices if choice in choices] == list(choices), key
    assert ours["output"] == real["output"]
    assert ours["output_node"] == real["output_node"]


@pytest.mark.parametrize("name", DECLARED)
def test_a_core_node_looks_as_comfyuis_does(name: str, theirs: dict[str, Any]) -> None:
    ours, real = OURS[name], theirs[name]
    for key in ("output_name", "category", "deprecated", "experimental"):
        assert ours[key] == real[key], key
    assert (ours["display_name"] or name) == (real["display_name"] or name)
