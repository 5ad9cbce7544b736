"""Nodes of ours for a UNet, each on all blocks that it is for, and beside which of others each is tried.

Import it after ComfyUI's arguments.
"""

from __future__ import annotations

from typing import NamedTuple

from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.block_skip import BlockSkip
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.free_u import FreeU
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.map_injection import MapInjection
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.point_capture import PointCapture
from attention_patchbay.ldm_patched.patches.methods.prompt_to_prompt import PromptToPrompt
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.self_attention_guidance import SelfAttentionGuidance
from attention_patchbay.ldm_patched.patches.methods.skip_guidance import SkipGuidance
from attention_patchbay.ldm_patched.patches.methods.sliding_window_guidance import SlidingWindowGuidance
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.methods.sparse_attention import SparseAttention
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.routing.nan_guard import Sentinel
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.tests.contract.theirs import SIZE, THEIRS, half
from attention_patchbay.tests.unets import draw

# What of others reaches self-attention, cross-attention, whole blocks, and the call of the model or its result
SELF = ("core PAG", "core SAG", "core HyperTile", "core ToMe", "PAG", "SEG", "TPG", "Inspire HyperTile")
SELF += ("Advanced reference", "AnimateDiff", "AnimateDiff windows", "KJNodes sage")
CROSS = ("IPAdapter", "NAG", "PLADIS", "couple", "couple of ppm", "KSamplerWithNAG", "couple of prompt-control")
CROSS += ("prompt schedule", "core LoRA hooks")
BLOCKS = ("core FreeU", "core Deep Shrink", "core ControlNet", "bleh Deep Shrink", "bleh block CFG")
BLOCKS += ("TPG", "AnimateDiff")
CALLS = ("core EasyCache", "core TorchCompile", "Inspire regional CFG", "bleh conditional")


class Mine(NamedTuple):
    """A method, and the nodes of others that it is tried beside."""

    method: Method
    beside: tuple[str, ...] = tuple(THEIRS)


ALL_CROSS = Where.of("all cross")
REGION = Region(draw(5, 1, 5, 16), half(True))
TEXT = 7  # tokens of a prompt
MINE: dict[str, Mine] = {
    "temperature": Mine(AttentionTemperature(3.0, where=ALL_CROSS)),
    "regions": Mine(RegionalPrompt((REGION,))),
    "normalized": Mine(NormalizedGuidance(draw(6, 1, 5, 16), 4.0, 9.0)),
    "reference": Mine(Reference(draw(7, 1, 4, SIZE, SIZE))),
    "style": Mine(StyleAligned()),
    "downsampling": Mine(KeyValueDownsampling()),
    "merging": Mine(TokenMerging()),
    "perturbed": Mine(PerturbedGuidance(scale=2.0, where=Where.of("input:7-8, middle"))),
    "rule": Mine(Rule("basic", Where.of("middle"))),
    "values": Mine(AttentionPatch("attn2.v", "scale", 1.5), (*CROSS, "core Deep Shrink")),
    "identity": Mine(AttentionPatch("attn1.out", "identity", where=Where.of("input")), SELF),
    "backbone": Mine(AttentionPatch("block.output", "scale", 1.3, where=Where.of("output")), BLOCKS),
    "tiles": Mine(TiledAttention(32, 1), (*SELF, "core Deep Shrink")),
    "injection": Mine(MapInjection(where=Where.of("all self")), SELF),
    "edit": Mine(PromptToPrompt((1, 2, 3, 4, 5, 6, 7), (1, 2, 8, 4, 5, 9, 7), 1.0), (*SELF, *CROSS)),
    "self-attention": Mine(SelfAttentionGuidance(2.0, threshold=0.9), (*SELF, *CALLS)),
    "skip guidance": Mine(SkipGuidance(), (*SELF, "core EasyCache")),
    "windows": Mine(SlidingWindowGuidance(), (*SELF, "core Deep Shrink")),
    "smoothed": Mine(SmoothedGuidance(), (*SELF, "Inspire regional CFG")),
    "skip": Mine(BlockSkip(where=Where.of("input:7-8")), (*SELF, *CROSS)),
    "skip block": Mine(WholeBlockSkip(where=Where.of("middle")), BLOCKS),
    "sparse": Mine(SparseAttention(), CROSS),
    "word mask": Mine(WordMask((1, 2), half(True), TEXT), (*CROSS, "core Deep Shrink", "AnimateDiff windows")),
    "word weight": Mine(WordWeight((1, 2), 3.0, TEXT), (*CROSS, "core EasyCache")),
    "words seen": Mine(Capture((Word("word", (1, 2)),), TEXT), (*CROSS, "core Deep Shrink", "AnimateDiff windows")),
    "points seen": Mine(PointCapture(((0.3, 0.5),)), (*SELF, "core Deep Shrink")),
    "scale": Mine(BlockScale(1.2, 0.8), BLOCKS),
    "free u": Mine(FreeU(), BLOCKS),
    "guard": Mine(Sentinel(), ("core PAG", "core SAG", "core HyperTile", "KJNodes sage", "AnimateDiff", *CALLS)),
}
