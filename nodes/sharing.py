"""Self-attention shared across a batch or with a reference, as nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.reference import Reference
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.style_aligned import StyleAligned
from ..ldm_patched.patches.targets import parse
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, strength, window


class StyleAlignedNode(io.ComfyNode):
    """One style for a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayStyleAligned",
            display_name="Style Aligned",
            category=CATEGORY,
            description="Let every picture of a batch also attend to the first one in self-attention, so that all get "
            "its style. The first picture stays as it is.",
            search_aliases=["StyleAligned", "shared attention", "batch align", "consistent style"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.Boolean.Input(
                    "adain",
                    default=True,
                    tooltip="Give queries and keys the mean and deviation of the first picture's before.",
                ),
                strength(),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model that shares its attention.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        adain: bool | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"adain": adain, "strength": strength, "blocks": blocks, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(**widgets), HOST))


class ReferenceAttention(io.ComfyNode):
    """Self-attention that also looks at a reference picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayReferenceAttention",
            display_name="Reference Attention",
            category=CATEGORY,
            description="Let self-attention also look at a reference picture, which brings its colours and look "
            "without any other model. One more model call beside each in the window, for the reference alone.",
            search_aliases=["reference only", "reference_only", "reference controlnet"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.Latent.Input("reference", tooltip="The reference picture from VAE Encode, or several in a batch."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Draws the noise that is put on the reference.",
                ),
                io.Boolean.Input(
                    "negative",
                    default=False,
                    tooltip="Let the negative side see the reference too: weaker. Without it guidance pushes towards "
                    "the reference.",
                ),
                strength(),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model that sees the reference.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        seed: int | None = None,
        negative: bool | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"seed": seed, "negative": negative, "strength": strength, "blocks": blocks, "curve": curve}
        return check(_make_blank, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, reference: dict[str, Any], **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_reference(reference["samples"], **widgets), HOST))


def make(
    adain: bool = True,
    strength: float = 1.0,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> StyleAligned:
    """Return the style-aligned sharing of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return StyleAligned(adain, strength, parse(blocks), Schedule(start_percent, end_percent, curve))


def make_reference(
    latent: Tensor,
    seed: int = 0,
    negative: bool = False,
    strength: float = 1.0,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> Reference:
    """Return the reference attention of the widgets, for a latent (r, c, h, w).

    Raises ValueError naming the value and the fix.
    """
    return Reference(latent, seed, negative, strength, parse(blocks), Schedule(start_percent, end_percent, curve))


def _make_blank(**widgets: Any) -> Reference:
    return make_reference(torch.zeros(1, 4, 1, 1), **widgets)


NODES = [StyleAlignedNode, ReferenceAttention]
