"""Workflows of the demo model with all nodes that read the record of a run, and a real ComfyUI server for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .comfyui_server import NAME, Server
from .workflows import CAPTION, SAMPLER, Workflow, node

NODES = Path(__file__).with_name("record_nodes.py")
ATTENTIONS = 2 * 7  # self and cross in the blocks of the demo model
CAPTURE = {"prompt": CAPTION, "words": "circle", "blocks": "middle", "curve": "constant", "side": "positive"}
LORA = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
GONE = "No run was recorded: no run is known that gave this latent"


class Host:
    """A server with the stand-ins as one more pack."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder

    def run(self, nodes: Workflow, status: str = "success") -> dict[str, Any]:
        record = self.server.run(nodes, self.folder)
        assert record["status"] == status, record["error"]
        return record


@contextmanager
def recording(folder: Path) -> Iterator[Host]:
    """Start a server in a folder, with the stand-ins and a LoRA."""
    server = Server(folder / "base", "--whitelist-custom-nodes", NAME, NODES.name)
    shutil.copy(NODES, folder / "base" / "custom_nodes")
    (folder / "base" / "models" / "loras").mkdir()
    up, down = (torch.full(shape, 0.1) for shape in ((96, 2), (2, 96)))
    weights = {f"{LORA}.lora_up.weight": up, f"{LORA}.lora_down.weight": down}
    save_file(weights, folder / "base" / "models" / "loras" / "one.safetensors")
    with server:
        yield Host(server, folder)


# Workflows


def base(**widgets: Any) -> Workflow:
    """Return the demo model with a capture of its cross-attention as `patched`, and what a sampler needs."""
    capture = {**CAPTURE, "start_percent": 0.0, "end_percent": 1.0, "points": "", "heads": "all", **widgets}
    return {
        "model": node("PatchbayLoadDemoModel"),
        "caption": node("CLIPTextEncode", clip=["model", 1], text=CAPTION),
        "empty": node("CLIPTextEncode", clip=["model", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "patched": node("PatchbayCaptureAttention", model=["model", 0], clip=["model", 1], **capture),
    }


def sampler(latent: str = "latent", model: str = "patched", **widgets: Any) -> dict[str, Any]:
    links = {"model": [model, 0], "positive": ["caption", 0], "negative": ["empty", 0], "latent_image": [latent, 0]}
    return node("KSampler", **links, **{**SAMPLER, **widgets})


def reader(kind: str, latent: str, model: str = "patched", slot: int = 0, **widgets: Any) -> dict[str, Any]:
    return node(kind, model=[model, 0], latent=[latent, slot], **widgets)


def readers(name: str, latent: str) -> Workflow:
    """Return all nodes that read the run of a latent, named `NAME report` and so on."""
    return {
        f"{name} report": reader("PatchbayPatchReport", latent),
        f"{name} inspector": reader("PatchbayPatchInspector", latent),
        f"{name} maps": reader("PatchbayAttentionMaps", latent, threshold=0.5, opacity=0.7),
        f"{name} statistics": node("PreviewAny", source=[f"{name} maps", 2]),
        f"{name} saved": reader("PatchbaySaveAttentionMaps", latent, filename_prefix="attention/maps"),
    }


def check(record: dict[str, Any], name: str, steps: int, tokens: str) -> None:
    """Check that all readers of a latent tell of the run with so many steps and tokens in the middle block."""
    outputs = {kind: record["outputs"][f"{name} {kind}"] for kind in ("report", "inspector", "statistics", "saved")}
    report = outputs["report"]
    assert report["text"][0].startswith(f"{ATTENTIONS * steps} attention calls")
    assert {row["steps"] for row in report["table"]} == {f"1-{steps}"}
    assert [row["calls"] for row in outputs["inspector"]["table"] if row["owner"].startswith("1. ")][0] == steps
    (line,) = [line.split() for line in outputs["statistics"]["text"][0].splitlines() if line.startswith("middle")]
    assert line[1:3] == [str(steps), tokens]
    about = json.loads(Path(outputs["saved"]["text"][0]).with_suffix(".json").read_text())
    assert about["captures"][0]["calls"] == {"middle": steps}
