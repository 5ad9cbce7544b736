"""The life of a patch in workflows of the embedded host: it is in its own branch, as long as its node is in the graph.

Every latent is compared, to the bit, with that of a host that never ran anything else.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api import comfy_io as io
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.catalog import catalog

from .workflows import KEEP, Node, attention_patch, guidance, preset, remove, rule, workflow

ZERO_PRESET = '{"patchbay": 1, "patches": [{"type": "AttentionPatch", "operation": "zero", "address": "middle"}]}'
MEAN_PRESET = ZERO_PRESET.replace("zero", "mean")
# a node and itself with another widget value
CHANGES = {
    "list": (attention_patch("zero"), attention_patch("zero", 0.5)),
    "replace": (attention_patch("identity"), attention_patch("identity", 0.5)),
    "guidance": (guidance(2.0), guidance(1.0)),
    "rule": (rule("all"), rule("cross")),
    "preset": (preset(ZERO_PRESET), preset(MEAN_PRESET)),
}
UPSTREAM = attention_patch("mean", 0.5, "output:0")
each = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


class KeepLatent(io.ComfyNode):
    """Show a latent to the test."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(KEEP, "Keep", inputs=[io.Latent.Input("samples")], is_output_node=True)

    @classmethod
    def execute(cls, samples: dict[str, Any]) -> io.NodeOutput:
        return io.NodeOutput(ui={"samples": [samples["samples"]]})


NODES = {**catalog(), KEEP: KeepLatent}


class Host:
    """One embedded host with its cache."""

    def __init__(self) -> None:
        self.executor = Executor(NODES, Session(Folders()))
        self.cached: list[str] = []

    def run(self, **branches: list[Node]) -> dict[str, torch.Tensor]:
        """Run a workflow; return the latent of each branch."""
        run = self.executor.run(workflow(pictures=False, **branches))
        self.cached = run.cached
        return {name: run.ui[f"{name} out"]["samples"][0] for name in branches}


@functools.cache
def _fresh(row: str) -> torch.Tensor:
    return Host().run(a=json.loads(row))["a"]


def fresh(*row: Node) -> torch.Tensor:
    return _fresh(json.dumps(row))


@each
def test_a_patch_stays_in_its_branch(change: tuple[Node, Node]) -> None:
    out = Host().run(plain=[], left=[UPSTREAM, change[0]], right=[UPSTREAM, change[1]], up=[UPSTREAM])
    assert torch.equal(out["plain"], fresh())
    assert torch.equal(out["up"], fresh(UPSTREAM))
    assert torch.equal(out["left"], fresh(UPSTREAM, change[0]))
    assert torch.equal(out["right"], fresh(UPSTREAM, change[1]))
    assert not torch.equal(out["left"], out["right"]) and not torch.equal(out["left"], out["up"])


@each
def test_a_changed_widget_adds_nothing_to_a_cached_upstream(change: tuple[Node, Node]) -> None:
    host = Host()
    wanted = [fresh(UPSTREAM, node) for node in change]
    for turn in (0, 1, 0, 1):
        assert torch.equal(host.run(a=[UPSTREAM, change[turn]])["a"], wanted[turn])
        assert turn == 0 or {"model", "a 4"} <= set(host.cached)


@each
def test_a_bypassed_node_leaves_nothing_behind(change: tuple[Node, Node]) -> None:
    host = Host()
    host.run(a=[UPSTREAM, change[0]])
    assert torch.equal(host.run(a=[UPSTREAM])["a"], fresh(UPSTREAM))
    host.run(a=[change[0], UPSTREAM])
    assert "model" in host.cached
    assert torch.equal(host.run(a=[UPSTREAM])["a"], fresh(UPSTREAM))
    assert torch.equal(host.run(a=[])["a"], fresh())


@each
def test_removed_patches_are_gone_in_their_branch_only(change: tuple[Node, Node]) -> None:
    row = [change[0], attention_patch("zero", blocks="input:5")]
    out = Host().run(a=row, b=[*row, remove(blocks="input:5")], c=[*row, remove()])
    assert torch.equal(out["a"], fresh(*row))
    assert torch.equal(out["c"], fresh())
    if change[0][0] != "PatchbayAttentionBackend":  # that one acts in input:5 as well
        assert torch.equal(out["b"], fresh(change[0]))
