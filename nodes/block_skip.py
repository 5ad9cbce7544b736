"""Skipping of attention, and guidance by it, as nodes."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.block_skip import BlockSkip, Skipped
from ..ldm_patched.patches.guidance import Guidance
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import KINDS, parse
from ..ldm_patched.patches.whole_block_skip import WholeBlockSkip
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, strength, window
from .guidance import scale


class BlockSkipNode(io.ComfyNode):
    """Leave attention out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayBlockSkip",
            display_name="Block Skip",
            category=CATEGORY,
            description="Leave the attention of some blocks, or the blocks themselves, out over a part of the run: to "
            "find out what a block does. What passes it stays as it is.",
            search_aliases=["skip layer", "disable attention", "block ablation"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                strength(),
                blocks("middle"),
                io.Combo.Input(
                    "kind",
                    options=[*KINDS, "block"],
                    default="self",
                    tooltip="self: attention among the picture's tokens. cross: attention to the text. all: both. "
                    "block: the whole UNet block, where it changes neither size nor channels.",
                ),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this skip on top.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        strength: float | None = None,
        blocks: str | None = None,
        kind: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"strength": strength, "blocks": blocks, "kind": kind, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(**widgets), HOST))


class SkipGuidance(io.ComfyNode):
    """Skip-layer guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbaySkipGuidance",
            display_name="Skip Layer Guidance",
            category=CATEGORY,
            description="Guide away from the picture in which the self-attention of some blocks is left out: clearer "
            "structure, with or without a negative prompt. One more model call in each step of the window.",
            search_aliases=["SLG", "skip layer guidance"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide; the input itself stays as it is."),
                scale(),
                blocks("middle"),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this guidance.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        scale: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"scale": scale, "blocks": blocks, "curve": curve}
        return check(make_guidance, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_guidance(**widgets), HOST))


def make(
    strength: float = 1.0,
    blocks: str = "middle",
    kind: str = "self",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> BlockSkip | WholeBlockSkip:
    """Return the block skip of the widgets.

    Raises ValueError naming the value and the fix.
    """
    if kind == "block":
        return WholeBlockSkip(strength, parse(blocks), Schedule(start_percent, end_percent, curve))
    return BlockSkip(kind, strength, parse(blocks), Schedule(start_percent, end_percent, curve))


def make_guidance(
    scale: float = 3.0,
    blocks: str = "middle",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> Guidance:
    """Return the skip-layer guidance of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return Guidance(Skipped(), scale, parse(blocks), Schedule(start_percent, end_percent, curve))


NODES = [BlockSkipNode, SkipGuidance]
