"""Guidance inside cross-attention, as nodes."""

from __future__ import annotations

from typing import Any

import torch

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.context import prompt_tokens
from ..ldm_patched.patches.normalized_guidance import NormalizedGuidance
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.sparse_attention import FORMS, SparseAttention
from ..ldm_patched.patches.targets import parse
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, model, number, patched, strength, window


class NormalizedGuidanceNode(io.ComfyNode):
    """Normalized attention guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayNormalizedGuidance",
            display_name="Normalized Attention Guidance",
            category=CATEGORY,
            description="A negative prompt that works inside cross-attention: at any cfg, also 1 and with distilled "
            "models, and without another model call.",
            search_aliases=["NAG", "negative prompt cfg 1", "negative prompt turbo"],
            inputs=[
                model("guide"),
                io.Conditioning.Input("negative", tooltip="The prompt to push away from: one prompt, its tokens."),
                number(
                    "scale",
                    5.0,
                    -100.0,
                    100.0,
                    "How far to push from the negative; 1 changes nothing.",
                    0.1,
                ),
                number("tau", 2.5, 0.01, 100.0, "The largest growth of a token's L1 norm; less is calmer.", 0.1),
                strength(0.5, "the guided attention is blended in (the paper's alpha)"),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[patched("this guidance")],
        )

    @classmethod
    def validate_inputs(
        cls,
        scale: float | None = None,
        tau: float | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"scale": scale, "tau": tau, "strength": strength, "blocks": blocks, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, negative: Any, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(prompt_tokens(negative), **widgets), HOST))


class SparseAttentionNode(io.ComfyNode):
    """Sparse cross-attention beside the dense one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbaySparseAttention",
            display_name="Sparse Cross-Attention",
            category=CATEGORY,
            description="Extrapolate cross-attention from its dense to a sparse form, in which words that hardly "
            "matter fall out: closer to the prompt, without another model call.",
            search_aliases=["PLADIS", "sparse attention", "entmax", "sparsemax"],
            inputs=[
                model(),
                number(
                    "scale",
                    2.0,
                    -10.0,
                    10.0,
                    "From dense (0: changes nothing) to sparse (1) and beyond.",
                    0.1,
                ),
                io.Combo.Input(
                    "form",
                    options=list(FORMS),
                    default="entmax",
                    tooltip="entmax: 1.5-entmax, between softmax and sparsemax. sparsemax: the sparsest.",
                ),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[patched("this attention")],
        )

    @classmethod
    def validate_inputs(
        cls,
        scale: float | None = None,
        form: str | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"scale": scale, "form": form, "blocks": blocks, "curve": curve}
        return check(make_sparse, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_sparse(**widgets), HOST))


def make(
    negative: torch.Tensor | None = None,
    scale: float = 5.0,
    tau: float = 2.5,
    strength: float = 0.5,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> NormalizedGuidance:
    """Return the normalized guidance of the widgets.

    Raises ValueError naming the value and the fix.
    """
    tokens = torch.zeros(1, 0, 0) if negative is None else negative
    schedule = Schedule(start_percent, end_percent, curve)
    return NormalizedGuidance(tokens, scale, tau, strength, parse(blocks), schedule)


def make_sparse(
    scale: float = 2.0,
    form: str = "entmax",
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> SparseAttention:
    """Return the sparse attention of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return SparseAttention(scale, form, parse(blocks), Schedule(start_percent, end_percent, curve))


NODES = [NormalizedGuidanceNode, SparseAttentionNode]
