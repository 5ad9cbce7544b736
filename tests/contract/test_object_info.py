"""Check what the page and the API see of each released node against the committed snapshot: ids, inputs, defaults.

For a change that is meant, or a release with new nodes, `python -m tests.contract.test_object_info` writes it anew.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.ldm_patched.ldm.modules.backends.registry import KNOWN

from ..released import RELEASED, SNAPSHOT

ROOT = Path(__file__).parents[2]


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def own_nodes() -> dict[str, dict[str, Any]]:
    infos = {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items() if name.startswith("Patchbay")}
    return {
        name: {key: value for key, value in plain(info).items() if key != "python_module"}
        for name, info in infos.items()
    }


NODES = own_nodes()


def test_nodes_equal_the_snapshot() -> None:
    infos = json.loads(SNAPSHOT.read_text())
    assert infos == {name: info for name, info in NODES.items() if name in RELEASED}


@pytest.mark.skipif(not os.environ.get("PATCHBAY_RELEASE"), reason="only before a release (PATCHBAY_RELEASE=1)")
def test_a_release_has_every_node_in_the_snapshot() -> None:
    assert NODES.keys() == RELEASED


def test_order_of_the_inputs_equals_the_snapshot() -> None:
    for name, info in json.loads(SNAPSHOT.read_text()).items():
        assert NODES[name]["input_order"] == {kind: list(inputs) for kind, inputs in info["input"].items()}


@pytest.mark.parametrize("name", NODES)
def test_everything_is_named_and_explained(name: str) -> None:
    info = NODES[name]
    assert info["name"] == name
    assert info["display_name"] and info["description"] and info["search_aliases"]
    assert info["category"].split("/")[0] in ("model", "loaders")
    inputs = info["input"]["required"] | info["input"].get("optional", {})
    assert [key for key, (_, settings) in inputs.items() if not settings.get("tooltip")] == []
    assert all(info["output_tooltips"])


@pytest.mark.parametrize("name", NODES)
def test_defaults_are_valid(name: str) -> None:
    for kind, settings in NODES[name]["input"]["required"].values():
        if kind == "COMBO":
            assert settings["default"] in settings["options"]
        if kind == "FLOAT":
            assert settings["min"] <= settings["default"] <= settings["max"] and math.isfinite(settings["step"])


def test_backends_do_not_depend_on_the_machine() -> None:
    options = NODES["PatchbayAttentionBackend"]["input"]["required"]["backend"][1]["options"]
    assert options == ["auto", *KNOWN]


@pytest.mark.parametrize("name", NODES)
def test_every_input_is_in_the_help_page(name: str) -> None:
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text()
    info = NODES[name]
    for key in [*info["input"]["required"], *info["output_name"]]:
        assert f"\n- `{key}`: " in page, f"{key} has no line"


if __name__ == "__main__":
    known = [name for name in json.loads(SNAPSHOT.read_text()) if name in NODES]  # in the order that they have there
    SNAPSHOT.write_text(json.dumps({name: NODES[name] for name in [*known, *NODES]}, indent=2) + "\n")
