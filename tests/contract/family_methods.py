"""The methods as they are tried on tiny models of each family."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.engine.prompts import prompt_of
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
from attention_patchbay.ldm_patched.patches.methods.token_perturbation_guidance import TokenPerturbationGuidance
from attention_patchbay.ldm_patched.patches.methods.weighted_prompt import WeightedPrompt
from attention_patchbay.ldm_patched.patches.methods.whole_block_guidance import WholeBlockGuidance
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.routing.nan_guard import Sentinel
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.patches.routing.style_transfer import StyleTransfer
from attention_patchbay.tests.contract.tiny_families import TEXT, Tiny, prompt

LATE = Where.of("all", 1.0, 1.0)
SOURCE = tuple(range(1, TEXT + 1))
WORD = {"positions": (3,), "length": TEXT}
HALF = torch.cat([torch.zeros(1, 8, 6), torch.ones(1, 8, 6)], dim=2)
Make = Callable[[Tiny, Where], Method]


def patch(slot: str, operation: str, value: float = 2.0) -> Make:
    return lambda tiny, where: AttentionPatch(slot, operation, value, where=where)


def region(tiny: Tiny, where: Where) -> Method:
    return RegionalPrompt((Region(prompt_of(prompt(tiny, 3)), HALF),), where=where)


def towards(tiny: Tiny, where: Where) -> Method:
    return AttentionPatch("attn2.k", "towards", where=where, other=prompt_of(prompt(tiny, 3)))


# Each method as it is tried: with the blocks that it is for, or those that are given.
METHODS: dict[str, tuple[str, Make]] = {
    "values of the picture": ("all", patch("attn1.v", "scale")),
    "queries": ("all", patch("attn1.q", "noise", 1.0)),
    "keys of the picture": ("all", patch("attn1.k", "shuffle")),
    "blur": ("all", patch("attn1.v", "blur", 1.0)),
    "output": ("all", patch("attn1.out", "zero")),
    "identity": ("all", patch("attn1.out", "identity")),
    "keys of the text": ("all", patch("attn2.k", "scale")),
    "values of the text": ("all", patch("attn2.v", "zero")),
    "output of cross-attention": ("all", patch("attn2.out", "zero")),
    "between the attentions": ("all", patch("middle", "zero")),
    "temperature": ("all", lambda tiny, where: AttentionTemperature(2.0, where=where)),
    "PAG": ("middle", lambda tiny, where: PerturbedGuidance(where=where)),
    "SEG": ("middle", lambda tiny, where: SmoothedGuidance(where=where)),
    "TPG": ("middle", lambda tiny, where: TokenPerturbationGuidance(where=where)),
    "sliding window": ("all", lambda tiny, where: SlidingWindowGuidance(where=where)),
    "SAG": ("middle", lambda tiny, where: SelfAttentionGuidance(where=where)),
    "PLADIS": ("all", lambda tiny, where: SparseAttention(where=where)),
    "KV downsampling": ("input, output", lambda tiny, where: KeyValueDownsampling(where=where)),
    "tiles": ("all", lambda tiny, where: TiledAttention(16, swap=1, where=where)),
    "token merging": ("input, output", lambda tiny, where: TokenMerging(where=where)),
    "map injection": ("output", lambda tiny, where: MapInjection(where=where)),
    "style aligned": ("all", lambda tiny, where: StyleAligned(where=where)),
    "weighted prompt": ("all", lambda tiny, where: WeightedPrompt((3, 4), (1.5, -1.0), TEXT, where=where)),
    "word weight": ("all", lambda tiny, where: WordWeight(weight=0.0, where=where, **WORD)),
    "word mask": ("all", lambda tiny, where: WordMask(mask=HALF, where=where, **WORD)),
    "capture of words": ("all", lambda tiny, where: Capture(words=(Word("a", (3,)),), length=TEXT, where=where)),
    "capture of points": ("all", lambda tiny, where: PointCapture(points=((0.5, 0.5),), where=where)),
    "NAG": ("all", lambda tiny, where: NormalizedGuidance(prompt_of(prompt(tiny, 3)), where=where)),
    "regional prompt": ("all", region),
    "towards a prompt": ("all", towards),
    "prompt to prompt": ("all", lambda tiny, where: PromptToPrompt(SOURCE, (*SOURCE[:-1], 0), where=where)),
    "reference": ("all", lambda tiny, where: Reference(torch.ones(1, tiny.latent[1], *tiny.latent[-2:]), where=where)),
    "style transfer": (
        "output",
        lambda tiny, where: StyleTransfer(torch.ones(1, tiny.latent[1], *tiny.latent[-2:]), where=where),
    ),
    "block skip": ("middle", lambda tiny, where: BlockSkip(attention="self", where=where)),
    "skip guidance": ("middle", lambda tiny, where: SkipGuidance(where=where)),
    "whole block skip": ("middle", lambda tiny, where: WholeBlockSkip(where=where)),
    "whole block guidance": ("middle", lambda tiny, where: WholeBlockGuidance(where=where)),
    "block scale": ("output", lambda tiny, where: BlockScale(backbone=1.5, where=where)),
    "FreeU": ("output", lambda tiny, where: FreeU(where=where)),
    "backend rule": ("middle", lambda tiny, where: Rule("basic", where)),
    "NaN guard": ("all", lambda tiny, where: Sentinel(where=where)),
}
LISTENING = ("capture of words", "capture of points", "NaN guard")
WHOLE = ("whole block skip", "whole block guidance", "block scale")
PICTURED = ("blur", "sliding window", "SAG", "KV downsampling", "tiles", "token merging", "word mask", "reference")
PICTURED = (*PICTURED, "style transfer", "capture of words", "capture of points", "regional prompt")
