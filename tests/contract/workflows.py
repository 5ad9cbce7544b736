"""Small workflows of the demo model in API format: branches of patch nodes in a row, each with a sampler of its own."""

from __future__ import annotations

from typing import Any

Node = tuple[str, dict[str, Any]]  # class and widgets
Workflow = dict[str, dict[str, Any]]

KEEP = "TestKeepLatent"
CAPTION = "a red circle on the left and a blue square on the right"
SAMPLER = {"seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
PERCENTS = {"start_percent": 0.0, "end_percent": 1.0}


def attention_patch(operation: str = "zero", strength: float = 1.0, blocks: str = "middle") -> Node:
    widgets = {"slot": "attn1.out", "operation": operation, "value": 1.0, "strength": strength, "blocks": blocks}
    return "PatchbayAttentionPatch", {**widgets, **PERCENTS, "curve": "constant"}


def guidance(scale: float = 2.0) -> Node:
    return "PatchbayPerturbedGuidance", {"scale": scale, "blocks": "middle", **PERCENTS, "curve": "constant"}


def rule(kind: str = "all") -> Node:
    return "PatchbayAttentionBackend", {"backend": "basic", "blocks": "all", "kind": kind, **PERCENTS}


def preset(text: str = "") -> Node:
    return "PatchbayPatchPreset", {"preset": text}


def remove(**widgets: Any) -> Node:
    return "PatchbayRemovePatches", {"slot": "all", "owner": "all", "blocks": "all", **widgets}


def workflow(pictures: bool = True, **branches: list[Node]) -> Workflow:
    """Return a workflow with a sampler and an output, `NAME out`, for each branch.

    Branches that begin with the same nodes share them. Without `pictures` an output keeps the latent, by a node that
    is not part of any catalog.
    """
    nodes = {
        "model": node("PatchbayLoadDemoModel"),
        "caption": node("CLIPTextEncode", clip=["model", 1], text=CAPTION),
        "empty": node("CLIPTextEncode", clip=["model", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=1),
    }
    for name, row in branches.items():
        last = "model"
        for kind, widgets in row:
            patch = node(kind, model=[last, 0], **widgets)
            last = next((id for id, other in nodes.items() if other == patch), f"{name} {len(nodes)}")
            nodes[last] = patch
        links = {
            "model": [last, 0],
            "positive": ["caption", 0],
            "negative": ["empty", 0],
            "latent_image": ["latent", 0],
        }
        nodes[f"{name} sampler"] = node("KSampler", **links, **SAMPLER)
        if pictures:
            nodes[f"{name} vae"] = node("VAEDecode", samples=[f"{name} sampler", 0], vae=["model", 2])
            nodes[f"{name} out"] = node("SaveImage", images=[f"{name} vae", 0], filename_prefix=name)
        else:
            nodes[f"{name} out"] = node(KEEP, samples=[f"{name} sampler", 0])
    return nodes


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}
