"""The life of a patch in a real ComfyUI server: run, run again with another widget value, run without the node.

Every picture is compared, to the bit, with that of a server that keeps nothing between two runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .comfyui_server import Server
from .test_lifetime import CHANGES, UPSTREAM, each
from .workflows import Node, attention_patch, remove, workflow

pytestmark = pytest.mark.comfyui


class Host:
    """A server, and how to run branches of patch nodes in it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.ran: list[str] = []

    def run(self, **branches: list[Node]) -> dict[str, np.ndarray]:
        """Run a workflow; return the picture of each branch."""
        record = self.server.run(workflow(**branches), self.folder)
        assert record["status"] == "success", record["error"]
        self.ran = record["ran"]
        files = {Path(path).name.partition("_")[0]: path for path in record["images"]}
        return {name: np.asarray(Image.open(files[name])) for name in branches}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("cached")
    with Server(folder / "base") as server:
        yield Host(server, folder)


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("forgetful")
    with Server(folder / "base", "--cache-none") as server:
        yield Host(server, folder)


@each
def test_a_patch_lives_as_long_as_its_node_and_in_its_branch(
    change: tuple[Node, Node], host: Host, forgetful: Host
) -> None:
    first, second = ([UPSTREAM, node] for node in change)
    wanted = {
        name: forgetful.run(a=row)["a"]
        for name, row in {"first": first, "second": second, "up": [UPSTREAM], "plain": []}.items()
    }
    assert "model" in forgetful.ran
    for name, row in (("first", first), ("second", second), ("first", first), ("up", [UPSTREAM]), ("plain", [])):
        assert np.array_equal(host.run(a=row)["a"], wanted[name]), name
    together = host.run(first=first, second=second, up=[UPSTREAM], plain=[])
    assert "model" not in host.ran and "a 4" not in host.ran  # taken from the cache
    for name, picture in together.items():
        assert np.array_equal(picture, wanted[name]), name
    assert not np.array_equal(wanted["up"], wanted["plain"])


def test_removed_patches_are_gone_in_their_branch_only(host: Host, forgetful: Host) -> None:
    row = [CHANGES["replace"][0], attention_patch("zero", blocks="input:5")]
    out = host.run(a=row, b=[*row, remove(blocks="input:5")], c=[*row, remove()])
    for name, wanted in {"a": row, "b": row[:1], "c": []}.items():
        assert np.array_equal(out[name], forgetful.run(a=wanted)["a"]), name
    assert not np.array_equal(out["a"], out["b"]) and not np.array_equal(out["b"], out["c"])


@pytest.mark.parametrize(
    ("node", "owner"),
    [
        (("PerturbedAttentionGuidance", {"scale": 3.0}), "nodes_pag"),
        (("SelfAttentionGuidance", {"scale": 0.5, "blur_sigma": 2.0}), "nodes_sag"),
        (("HyperTile", {"tile_size": 32, "swap_size": 2, "max_depth": 3, "scale_depth": False}), "nodes_hypertile"),
        (("RescaleCFG", {"multiplier": 1.0}), "rescale"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_patches_of_comfyuis_own_nodes_are_removed_by_name(node: Node, owner: str, host: Host, forgetful: Host) -> None:
    row = [UPSTREAM, node, CHANGES["replace"][0]]
    out = host.run(a=row, b=[*row, remove(owner=owner)], c=[*row, remove(owner="foreign")])
    wanted = forgetful.run(a=[UPSTREAM, CHANGES["replace"][0]], b=row)
    assert np.array_equal(out["b"], wanted["a"]) and np.array_equal(out["c"], wanted["a"])
    assert np.array_equal(out["a"], wanted["b"]) and not np.array_equal(out["a"], out["b"])
