"""The extension: every node of the pack, in the order of the menu."""

from __future__ import annotations

from . import attention_maps, attention_patch, backend, demo, guidance, report
from ._host import ComfyExtension, io, register_host_backends

NODES = [*backend.NODES, *attention_patch.NODES, *guidance.NODES, *attention_maps.NODES, *report.NODES, *demo.NODES]


class PatchbayExtension(ComfyExtension):
    """What ComfyUI and the embedded host load."""

    async def on_load(self) -> None:
        """Offer the host's attention functions to the backend rules."""
        register_host_backends()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return NODES
