"""The extension: a node for every method, and those that are written by hand."""

from __future__ import annotations

from ..ldm_patched.patches.reading.declared import declared
from ._host import ComfyExtension, io, register_host_backends, serve_page
from .block_map import BlockMap
from .capture import CaptureAttention
from .captured import AttentionMaps, SaveAttentionMaps
from .compare import Compare
from .demo import LoadDemoModel
from .derived import node
from .drawn import DrawnRegions
from .inspector import PatchInspector
from .live import LiveMasks, LiveRegion
from .lora import LoadLoraByRules, LoraOfRegion
from .manage import CopyPatches, PatchPreset, RemovePatches
from .region import PromptRegion
from .report import PatchReport
from .rules import BackendRules
from .shares import WordShares
from .tuned import TunedAttention
from .tuning import TuneAttention

BY_HAND: list[type[io.ComfyNode]] = [
    BackendRules,
    LoadLoraByRules,
    TuneAttention,
    TunedAttention,
    PromptRegion,
    LiveRegion,
    LoraOfRegion,
    DrawnRegions,
    RemovePatches,
    CopyPatches,
    PatchPreset,
    CaptureAttention,
    AttentionMaps,
    SaveAttentionMaps,
    WordShares,
    LiveMasks,
    BlockMap,
    PatchReport,
    PatchInspector,
    Compare,
    LoadDemoModel,
]


class PatchbayExtension(ComfyExtension):
    """What ComfyUI and the embedded host load."""

    async def on_load(self) -> None:
        """Offer the host's attention functions to the backend rules, and the page the blocks of model files."""
        register_host_backends()
        serve_page()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return [*(node(method) for method in declared() if method.declaration.node), *BY_HAND]
