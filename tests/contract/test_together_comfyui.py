"""All nodes in one graph with ComfyUI's own patches and a LoRA: each of them still has its effect.

The whole chain is sampled in a real server that keeps nothing between two runs; then one node after the other is left
out, and the latent must change by far more than rounding. A node of ours is added by one line in OURS.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from .comfyui_server import Server
from .workflows import Node, Workflow, node, workflow

pytestmark = pytest.mark.comfyui

ALWAYS: dict[str, Any] = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
CORE: list[Node] = [
    ("LoraLoaderModelOnly", {"lora_name": "middle.safetensors", "strength_model": 1.0}),
    ("PerturbedAttentionGuidance", {"scale": 100.0}),
    ("SelfAttentionGuidance", {"scale": 0.2, "blur_sigma": 1.0}),
    ("FreeU_V2", {"b1": 1.05, "b2": 1.05, "s1": 0.95, "s2": 0.95}),
    ("HyperTile", {"tile_size": 32, "swap_size": 1, "max_depth": 2, "scale_depth": False}),
    ("TomePatchModel", {"ratio": 0.25}),
]
FIRST = {**ALWAYS, "blocks": "input:3"}
OURS: list[Node] = [
    ("PatchbayBackendRules", {"rules": "middle -> basic\n* -> pytorch"}),
    ("PatchbayAttentionPatch", {"slot": "attn2.out", "operation": "scale", "value": 1.2, "strength": 1.0, **FIRST}),
    ("PatchbayAttentionTemperature", {}),
    ("PatchbayTokenMerging", {"blocks": "output:0"}),
    ("PatchbayKeyValueDownsampling", {"blocks": "input:5"}),
    ("PatchbayPerturbedGuidance", {"scale": 1.0, **FIRST}),
    ("PatchbaySmoothedGuidance", {"scale": 2.0, "blur": 1000.0, **FIRST}),
    ("PatchbaySelfAttentionGuidance", {"scale": 0.2, "blur": 1.0, "threshold": 1.0, **ALWAYS, "blocks": "middle"}),
    ("PatchbaySlidingWindowGuidance", {"scale": 2.0, "size": 0.5, "overlap": 0.5, **ALWAYS, "blocks": "middle"}),
    ("PatchbayNormalizedGuidance", {"negative": ["other", 0], "scale": 2.0, "tau": 2.5, "strength": 0.3, **FIRST}),
    ("PatchbaySparseAttention", {"scale": 0.5, "form": "entmax", **FIRST}),
    ("PatchbayFreeU", {"b1": 1.05, "b2": 1.05, "s1": 0.95, "s2": 0.95, "blocks": "output"}),
    ("PatchbayBlockScale", {"backbone": 0.98, "blocks": "output:2"}),
    ("PatchbayBlockSkip", {"strength": 0.2, "blocks": "output:0"}),
    ("PatchbaySkipGuidance", {"scale": 0.2, "blocks": "output:2"}),
]
# Another exact function moves the picture by rounding only; ComfyUI merges tokens at the size of the latent only, where
# the demo model has no attention. HyperTile cuts the largest grids, so what needs the whole grid is on other blocks.
NO_PICTURE = ("PatchbayBackendRules", "TomePatchModel")


class Host:
    """A server that keeps nothing, and its node infos."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.infos: dict[str, Any] = server.get("/object_info")

    def latent(self, row: list[Node]) -> torch.Tensor:
        """Sample the demo model behind a row of nodes."""
        steps = [(kind, {**self._defaults(kind), **widgets}) for kind, widgets in row]
        graph: Workflow = workflow(all=steps)
        graph["other"] = node("CLIPTextEncode", clip=["model", 1], text="a green cross")
        graph["keep"] = node("SaveLatent", samples=["all sampler", 0], filename_prefix="kept")
        record = self.server.run(graph, self.folder)
        assert record["status"] == "success", record["error"]["exception_message"]
        (entry,) = record["outputs"]["keep"]["latents"]
        return load_file(self.server.base / "output" / entry["subfolder"] / entry["filename"])["latent_tensor"]

    def _defaults(self, kind: str) -> dict[str, Any]:
        """Return the default of every widget of a node."""
        required = self.infos[kind]["input"]["required"]
        settings = {name: (entry[0], entry[1] if len(entry) > 1 else {}) for name, entry in required.items()}
        first = {name: choices[0] for name, (choices, _) in settings.items() if isinstance(choices, list)}
        given = {name: more["default"] for name, (_, more) in settings.items() if "default" in more}
        return first | given


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("together")
    server = Server(folder / "base", "--cache-none")
    loras = folder / "base" / "models" / "loras"
    loras.mkdir()
    generator = torch.Generator().manual_seed(1)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_q"
    up, down = torch.randn(96, 2, generator=generator), torch.randn(2, 96, generator=generator)
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, loras / "middle.safetensors")
    with server:
        yield Host(server, folder)


@pytest.fixture(scope="module", params=["core first", "ours first"])
def chain(request: pytest.FixtureRequest, host: Host) -> tuple[list[Node], torch.Tensor]:
    """Return all nodes in one order, and their latent, which is the same in every run."""
    row = [*CORE, *OURS] if request.param == "core first" else [*OURS, *CORE]
    whole = host.latent(row)
    assert torch.equal(host.latent(row), whole) and 0.5 < whole.std() < 10.0
    return row, whole


@pytest.mark.parametrize("kind", [kind for kind, _ in (*CORE, *OURS) if kind not in NO_PICTURE])
def test_no_node_of_a_full_graph_is_inert(kind: str, host: Host, chain: tuple[list[Node], torch.Tensor]) -> None:
    row, whole = chain
    without = host.latent([step for step in row if step[0] != kind])
    assert (without - whole).abs().max() > 1e-3
