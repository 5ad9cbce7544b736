"""Every node that the embedded host knows: ComfyUI's core names, and this pack's own."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from ..api.comfy_io import ComfyNode
from ..nodes import (
    conditioning,
    controlnet,
    custom_sampling,
    image,
    inpaint,
    latent,
    loaders,
    lora,
    mask,
    sampling,
    text,
    vae,
    video,
)

CORE = (
    loaders,
    lora,
    text,
    conditioning,
    controlnet,
    sampling,
    custom_sampling,
    latent,
    vae,
    video,
    image,
    inpaint,
    mask,
)


def catalog() -> dict[str, type[ComfyNode]]:
    """Return the node classes by id."""
    from ...nodes.extension import PatchbayExtension

    extension = PatchbayExtension()
    own = _come_to(_nodes_of(extension))
    everything: list[type[ComfyNode]] = [*(node for module in CORE for node in module.NODES), *own]
    return {cls.GET_SCHEMA().node_id: cls for cls in everything}


async def _nodes_of(extension: Any) -> list[type[ComfyNode]]:
    await extension.on_load()
    return await extension.get_node_list()


def _come_to(work: Coroutine[Any, Any, list[type[ComfyNode]]]) -> list[type[ComfyNode]]:
    """Return what a coroutine comes to that waits for nothing; an event loop would complain when a signal stops it."""
    try:
        work.send(None)
    except StopIteration as end:
        found: list[type[ComfyNode]] = end.value
        return found
    raise RuntimeError("the nodes of the pack wait for something")
