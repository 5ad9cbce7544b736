"""Every node that the embedded host knows: ComfyUI's core names, and this pack's own."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from ..api.comfy_io import ComfyNode
from ..nodes import (
    batches,
    color_transfer,
    compositing,
    conditioning,
    conditioning_properties,
    conditioning_values,
    controlnet,
    custom_sampling,
    expression,
    filters,
    guidance_patches,
    guiders,
    hook_keyframes,
    hooks,
    hypernetworks,
    image,
    image_files,
    image_parts,
    inpaint,
    latent,
    latent_changes,
    latent_files,
    loaders,
    lora,
    mask,
    mask_shapes,
    model_merging,
    model_patches,
    more_loaders,
    primitives,
    sampling,
    saving,
    sigmas,
    sizes,
    strings,
    text,
    token_patches,
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
    sizes,
    image_parts,
    filters,
    compositing,
    mask_shapes,
    latent_changes,
    conditioning_values,
    primitives,
    strings,
    batches,
    sigmas,
    guiders,
    image_files,
    more_loaders,
    model_patches,
    color_transfer,
    expression,
    guidance_patches,
    latent_files,
    model_merging,
    saving,
    token_patches,
    hypernetworks,
    conditioning_properties,
    hooks,
    hook_keyframes,
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
