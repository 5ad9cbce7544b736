"""The extension: every node of the pack, in the order of the menu."""

from __future__ import annotations

from . import (
    attention_maps,
    attention_patch,
    backend,
    block_map,
    block_scaling,
    block_skip,
    capture,
    captured,
    cross_attention_guidance,
    demo,
    guidance,
    inspector,
    manage,
    regions,
    report,
    rules,
    self_attention_guidance,
    sentinel,
    sharing,
    temperature,
    tokens,
    tuning,
    word_mask,
)
from ._host import ComfyExtension, io, register_host_backends

NODES = [
    *backend.NODES,
    *rules.NODES,
    *sentinel.NODES,
    *tuning.NODES,
    *attention_patch.NODES,
    *temperature.NODES,
    *tokens.NODES,
    *guidance.NODES,
    *self_attention_guidance.NODES,
    *cross_attention_guidance.NODES,
    *regions.NODES,
    *word_mask.NODES,
    *attention_maps.NODES,
    *block_scaling.NODES,
    *block_skip.NODES,
    *sharing.NODES,
    *manage.NODES,
    *capture.NODES,
    *captured.NODES,
    *block_map.NODES,
    *report.NODES,
    *inspector.NODES,
    *demo.NODES,
]


class PatchbayExtension(ComfyExtension):
    """What ComfyUI and the embedded host load."""

    async def on_load(self) -> None:
        """Offer the host's attention functions to the backend rules."""
        register_host_backends()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return NODES
