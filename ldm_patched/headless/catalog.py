"""Every node that the embedded host knows: ComfyUI's core names, and this pack's own."""

from __future__ import annotations

import asyncio
from typing import Any

from . import (
    core_conditioning,
    core_controlnet,
    core_custom_sampling,
    core_image,
    core_inpaint,
    core_latent,
    core_loaders,
    core_lora,
    core_mask,
    core_sampling,
    core_text,
    core_vae,
    core_video,
)
from .io import ComfyNode

CORE = (
    core_loaders,
    core_lora,
    core_text,
    core_conditioning,
    core_controlnet,
    core_sampling,
    core_custom_sampling,
    core_latent,
    core_vae,
    core_video,
    core_image,
    core_inpaint,
    core_mask,
)


def catalog() -> dict[str, type[ComfyNode]]:
    """Return the node classes by id."""
    from ...nodes.extension import PatchbayExtension

    extension = PatchbayExtension()
    own = asyncio.run(_nodes_of(extension))
    everything: list[type[ComfyNode]] = [*(node for room in CORE for node in room.NODES), *own]
    return {cls.GET_SCHEMA().node_id: cls for cls in everything}


async def _nodes_of(extension: Any) -> list[type[ComfyNode]]:
    await extension.on_load()
    return await extension.get_node_list()
