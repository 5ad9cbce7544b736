"""Write LoRA rules in ComfyUI's own page, in both renderings: the map is coloured by them, and errors show at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .comfyui_server import FRONTENDS, NAME, Server
from .pages import MARKS, driven
from .workflows import node

pytestmark = MARKS
CHILD = Path(__file__).with_name("lora_page_child.py")
SIZES = {"input_blocks_1_0_in_layers_2": 1.0, "middle_block_1_transformer_blocks_0_attn1_to_q": 0.25}
RULES = "input:1 -> 0.5\nmiddle 0-40% -> 0\ncross -> 2\n* -> 1"
WORKFLOW = {
    "1": node("PatchbayLoadDemoModel"),
    "2": node(
        "PatchbayLoraRules", model=["1", 0], lora_name="style.safetensors", rules=RULES, strength=2.0, strength_clip=1.0
    ),
    "3": node("PatchbayBlockMap", model=["2", 0], blocks="all"),
}
DARK, BRIGHT = "rgb(0, 33, 77)", "rgb(255, 235, 69)"  # the ends of the scale


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    frontend = ["--front-end-root", FRONTENDS[-1]] if FRONTENDS else []
    running = Server(tmp_path_factory.mktemp("page") / "base", "--whitelist-custom-nodes", NAME, *frontend)
    folder = running.base / "models" / "loras"
    folder.mkdir()
    file = {}
    for name, size in SIZES.items():
        file[f"lora_unet_{name}.lora_up.weight"] = size * torch.ones(4, 1)
        file[f"lora_unet_{name}.lora_down.weight"] = torch.ones(1, 4)
    save_file(file, folder / "style.safetensors")
    save_file({"x": torch.ones(1)}, folder / "none.safetensors")
    with running:
        yield running


@pytest.fixture(scope="module", params=["classic", "vue"])
def seen(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("lora")
    (folder / "workflow.json").write_text(json.dumps(WORKFLOW))
    about = server.url, request.param, folder / "workflow.json"
    found: dict[str, Any] = driven("lora_page_child.py", folder, *about)
    assert found["errors"] == []
    return found


def coloured(blocks: list[list[str]]) -> dict[str, tuple[str, str]]:
    return {name: (background, title) for name, background, title in blocks}


def test_the_map_is_coloured_by_the_strengths_over_the_run(seen: dict[str, Any]) -> None:
    found = coloured(seen["map"])
    assert found["output:0"][0] == BRIGHT and found["output:0"][1].endswith("strength 2; cross: 4")
    assert found["input:1"][0] not in (DARK, BRIGHT) and found["input:1"][1].endswith("strength 1")
    assert found["middle"][0] == f"linear-gradient(to right, {DARK} 0%, {DARK} 40%, {BRIGHT} 40%, {BRIGHT} 100%)"
    assert "strength 0 at 0-40%, 2 at 40-100%" in found["middle"][1]


def test_the_map_shows_the_norms_of_the_file(seen: dict[str, Any]) -> None:
    found = coloured(seen["norms"])
    assert found["input:1"][0] == BRIGHT and found["input:1"][1].endswith("norm 100 % of the largest")
    assert found["middle"][1].endswith("norm 25 % of the largest") and found["middle"][0] not in (DARK, BRIGHT)
    assert "norm" not in found["output:0"][1] and found["output:0"][0] == "transparent"


def test_a_preset_writes_rules(seen: dict[str, Any]) -> None:
    assert {"all", "late", "MIDD"} <= set(seen["chips"])
    rules, blocks = seen["preset"]
    assert rules == "* 0-30% -> 0\n* -> 1"
    assert all("30%" in background for background, _ in coloured(blocks).values())


def test_rules_are_read_while_they_are_typed(seen: dict[str, Any]) -> None:
    assert seen["told"] == ["1. input:1 \u2192 0.5", "2. middle 0-40% \u2192 0", "3. cross \u2192 2", "4. * \u2192 1"]
    assert seen["wrong"][0] == "1. * \u2192 0.5"
    assert "line 2, column 1: this model has no block 'input:77'; it has input:" in seen["wrong"][1]
    assert seen["number"] == ["\u26a0 line 1, column 6: cannot read the strength 'much'; write a number such as 0.8"]


def test_only_files_of_the_folder_are_told(server: Server) -> None:
    assert server.get("/patchbay/lora?file=style.safetensors") == {"norms": {"input:1": 1.0, "middle": 0.25}}
    assert server.ask("/patchbay/lora?file=none.safetensors")[0] == 422
    assert server.ask("/patchbay/lora?file=../../secret.safetensors")[0] == 404
