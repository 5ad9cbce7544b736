"""The extension: every node of the pack, in the order of the menu."""

from __future__ import annotations

from . import attention_patch, backend, demo, guidance, report, temperature, tokens
from ._host import ComfyExtension, io, register_host_backends

NODES = [
    *backend.NODES,
    *attention_patch.NODES,
    *temperature.NODES,
    *tokens.NODES,
    *guidance.NODES,
    *report.NODES,
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
