"""Guidance by weakened self-attention, as nodes."""

from __future__ import annotations

import math
from typing import Any

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.guidance import Guidance
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import parse
from ..ldm_patched.patches.weak_attention import Perturbed, SmoothedEnergy
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, window

LARGEST_BLUR = 1000.0  # a picture has fewer tokens in a row


def scale() -> Any:
    """Return the input for how far the guidance goes."""
    return io.Float.Input(
        "scale",
        default=3.0,
        min=-100.0,
        max=100.0,
        step=0.1,
        tooltip="How far the prediction is pushed away from the weakened one; 0 changes nothing.",
    )


class PerturbedGuidance(io.ComfyNode):
    """Perturbed-attention guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayPerturbedGuidance",
            display_name="Perturbed Attention Guidance",
            category=CATEGORY,
            description="Guide away from the picture in which every token of some blocks attends to itself alone: "
            "clearer structure, with or without a negative prompt. One more model call in each step of the window.",
            search_aliases=["PAG", "perturbed attention", "identity attention"],
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
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(**widgets), HOST))


class SmoothedGuidance(io.ComfyNode):
    """Smoothed-energy guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbaySmoothedGuidance",
            display_name="Smoothed Energy Guidance",
            category=CATEGORY,
            description="Guide away from the picture in which the queries of some blocks are blurred: clearer "
            "structure with fewer side effects than perturbed attention. One more model call in each step of the "
            "window.",
            search_aliases=["SEG", "smoothed energy", "blurred attention"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guide; the input itself stays as it is."),
                scale(),
                io.Float.Input(
                    "blur",
                    default=LARGEST_BLUR,
                    min=0.1,
                    max=LARGEST_BLUR,
                    step=0.1,
                    tooltip="Deviation of the Gaussian over the picture's tokens; 1000 takes the mean of all.",
                ),
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
        blur: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"scale": scale, "blur": blur, "blocks": blocks, "curve": curve}
        return check(make_smoothed, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_smoothed(**widgets), HOST))


def make(
    scale: float = 3.0,
    blocks: str = "middle",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> Guidance:
    """Return the perturbed-attention guidance of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return Guidance(Perturbed(), scale, parse(blocks), Schedule(start_percent, end_percent, curve))


def make_smoothed(
    scale: float = 3.0,
    blur: float = LARGEST_BLUR,
    blocks: str = "middle",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> Guidance:
    """Return the smoothed-energy guidance of the widgets.

    Raises ValueError naming the value and the fix.
    """
    weakening = SmoothedEnergy(math.inf if blur >= LARGEST_BLUR else blur)
    return Guidance(weakening, scale, parse(blocks), Schedule(start_percent, end_percent, curve))


NODES = [PerturbedGuidance, SmoothedGuidance]
