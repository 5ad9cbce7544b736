"""Scaling of whole UNet blocks, as nodes."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.block_scaling import VERSIONS, BlockScale, FreeU
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import parse
from ._host import HOST, io
from ._widgets import CATEGORY, check, curve, strength, unet_blocks, window


def factor(name: str, default: float, tooltip: str) -> Any:
    """Return the input for a factor."""
    return io.Float.Input(name, default=default, min=0.0, max=10.0, step=0.01, tooltip=tooltip)


class FreeUNode(io.ComfyNode):
    """FreeU, versions 1 and 2."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayFreeU",
            display_name="FreeU",
            category=CATEGORY,
            description="Strengthen the backbone of the UNet and weaken the low frequencies of its skip connections: "
            "cleaner shapes at no cost, over a part of the run and in the blocks you name.",
            search_aliases=["FreeU_V2", "free lunch", "backbone scale", "skip scale"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                factor("b1", 1.3, "Factor of half of the backbone where it has most channels; 1 changes nothing."),
                factor("b2", 1.4, "Factor of half of the backbone one level up; 1 changes nothing."),
                factor("s1", 0.9, "Factor of the skip's lowest frequencies where there are most channels."),
                factor("s2", 0.2, "Factor of the skip's lowest frequencies one level up; 1 changes nothing."),
                io.Combo.Input(
                    "version",
                    options=[str(version) for version in VERSIONS],
                    default="2",
                    tooltip="2 scales the backbone where it is active, 1 everywhere.",
                ),
                strength(),
                unet_blocks("output"),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with FreeU on top.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        b1: float | None = None,
        b2: float | None = None,
        s1: float | None = None,
        s2: float | None = None,
        version: str | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        factors = {"b1": b1, "b2": b2, "s1": s1, "s2": s2, "version": version}
        widgets = {"strength": strength, "blocks": blocks, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **factors, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(**widgets), HOST))


class BlockScaleNode(io.ComfyNode):
    """Free factors for whole blocks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayBlockScale",
            display_name="Block Scale",
            category=CATEGORY,
            description="Multiply what whole UNet blocks hand on: the backbone and the skip connection of output "
            "blocks, the output of input blocks and of the middle.",
            search_aliases=["skip connection scale", "backbone multiply", "unet block weight"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                factor(
                    "backbone",
                    1.1,
                    "Factor of what an output block gets from the block before it, or of the "
                    "output of an input block or the middle; 1 changes nothing.",
                ),
                factor(
                    "skip",
                    1.0,
                    "Factor of what an output block gets over its skip connection; other blocks do not use it.",
                ),
                strength(),
                unet_blocks("output"),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this scale on top.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        backbone: float | None = None,
        skip: float | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"backbone": backbone, "skip": skip, "strength": strength, "blocks": blocks, "curve": curve}
        return check(make_scale, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_scale(**widgets), HOST))


def make(
    b1: float = 1.3,
    b2: float = 1.4,
    s1: float = 0.9,
    s2: float = 0.2,
    version: str = "2",
    strength: float = 1.0,
    blocks: str = "output",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> FreeU:
    """Return the FreeU of the widgets.

    Raises ValueError naming the value and the fix.
    """
    schedule = Schedule(start_percent, end_percent, curve)
    return FreeU(b1, b2, s1, s2, int(version), strength, parse(blocks), schedule)


def make_scale(
    backbone: float = 1.1,
    skip: float = 1.0,
    strength: float = 1.0,
    blocks: str = "output",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> BlockScale:
    """Return the block scale of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return BlockScale(backbone, skip, strength, parse(blocks), Schedule(start_percent, end_percent, curve))


NODES = [FreeUNode, BlockScaleNode]
