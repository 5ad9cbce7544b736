"""Run a workflow in API format node by node and keep every output; the same for both hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]


def run_graphs(
    graphs: Mapping[str, Graph], call: Callable[[str, dict[str, Any]], tuple[Any, ...]]
) -> Iterator[tuple[str, dict[str, tuple[Any, ...]]]]:
    """Yield the name and all outputs of each graph, which lists a node after its sources.

    `call` runs a node class; a node that is the same as in the graph before, with the same sources, is not run again.
    """
    outputs: dict[str, tuple[Any, ...]] = {}
    before: Graph = {}
    for name, graph in graphs.items():
        fresh: set[str] = set()
        for id, node in graph.items():
            links = {key: value for key, value in node["inputs"].items() if isinstance(value, list)}
            if before.get(id) == node and not any(link[0] in fresh for link in links.values()):
                continue
            sources = {key: outputs[link[0]][link[1]] for key, link in links.items()}
            outputs[id] = call(node["class_type"], {**node["inputs"], **sources})
            fresh.add(id)
        before = graph
        yield name, outputs


def outcomes(graphs: Mapping[str, Graph], call: Callable[..., tuple[Any, ...]], unet: dict[str, Any]) -> dict[str, Any]:
    """Return the latent of the node "sample" of each graph, and as "UNet" what one call on `unet` gives."""
    found = {}
    for name, outputs in run_graphs(graphs, call):
        found[name] = outputs["sample"][0]["samples"].clone()
    found["UNet"] = outputs["load"][0].model.diffusion_model(**unet).clone()
    return found


def text_to_image(checkpoint: str, **sampler: Any) -> dict[str, Any]:
    """Return the usual workflow up to the latent, in node "sample"."""
    settings = {"seed": 5, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    size = {"width": sampler.pop("width", 128), "height": sampler.pop("height", 128), "batch_size": 1}
    return {
        "load": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "positive": node("CLIPTextEncode", clip=["load", 1], text="a (red:1.3) fox, [detailed], 8k"),
        "negative": node("CLIPTextEncode", clip=["load", 1], text="blurry"),
        "latent": node("EmptyLatentImage", **size),
        "sample": node(
            "KSampler",
            model=["load", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            **(settings | sampler),
        ),
    }


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """Return one node of a graph."""
    return {"class_type": class_type, "inputs": inputs}
