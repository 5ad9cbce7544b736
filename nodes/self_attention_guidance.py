"""Guidance by degraded or narrowed self-attention, as nodes."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.guidance import Guidance
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.self_attention_guidance import SelfAttentionGuidance
from ..ldm_patched.patches.sliding_window import SlidingWindow
from ..ldm_patched.patches.targets import parse
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, model, number, patched, window


class SelfAttentionGuidanceNode(io.ComfyNode):
    """Self-attention guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbaySelfAttentionGuidance",
            display_name="Self-Attention Guidance",
            category=CATEGORY,
            description="Blur the prediction where self-attention looks most, predict once more, and push the picture "
            "away from that: finer detail and structure. One more model call in each step of the window.",
            search_aliases=["SAG", "self attention guidance", "degraded guidance"],
            inputs=[
                model("guide"),
                number("scale", 0.5, -10.0, 10.0, "How far the prediction is pushed; 0 changes nothing."),
                number("blur", 2.0, 0.1, 100.0, "Deviation of the Gaussian blur, in latent pixels.", 0.1),
                number(
                    "threshold",
                    1.0,
                    0.0,
                    100.0,
                    "Blur what gets more than so many even shares of attention.",
                ),
                blocks("middle"),
                *window(),
                curve(),
            ],
            outputs=[patched("this guidance")],
        )

    @classmethod
    def validate_inputs(
        cls,
        scale: float | None = None,
        blur: float | None = None,
        threshold: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"scale": scale, "blur": blur, "threshold": threshold, "blocks": blocks, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(**widgets), HOST))


class SlidingWindowGuidance(io.ComfyNode):
    """Sliding-window guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbaySlidingWindowGuidance",
            display_name="Sliding Window Guidance",
            category=CATEGORY,
            description="Guide away from the picture in which the self-attention of some blocks sees only a window "
            "around each place: better global structure. One more model call in each step of the window.",
            search_aliases=["SWG", "sliding window", "local attention"],
            inputs=[
                model("guide"),
                number("scale", 3.0, -100.0, 100.0, "How far the prediction is pushed away; 0 changes nothing.", 0.1),
                number("size", 0.5, 0.05, 1.0, "Side of a window, as a part of the picture's; 1 changes nothing."),
                number("overlap", 0.5, 0.0, 0.95, "The part of a window that neighbours share, at least."),
                blocks("all"),
                *window(),
                curve(),
            ],
            outputs=[patched("this guidance")],
        )

    @classmethod
    def validate_inputs(
        cls,
        scale: float | None = None,
        size: float | None = None,
        overlap: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"scale": scale, "size": size, "overlap": overlap, "blocks": blocks, "curve": curve}
        return check(make_window, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_window(**widgets), HOST))


def make(
    scale: float = 0.5,
    blur: float = 2.0,
    threshold: float = 1.0,
    blocks: str = "middle",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> SelfAttentionGuidance:
    """Return the self-attention guidance of the widgets.

    Raises ValueError naming the value and the fix.
    """
    schedule = Schedule(start_percent, end_percent, curve)
    return SelfAttentionGuidance(scale, blur, threshold, parse(blocks), schedule)


def make_window(
    scale: float = 3.0,
    size: float = 0.5,
    overlap: float = 0.5,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> Guidance:
    """Return the sliding-window guidance of the widgets.

    Raises ValueError naming the value and the fix.
    """
    schedule = Schedule(start_percent, end_percent, curve)
    return Guidance(SlidingWindow(size, overlap), scale, parse(blocks), schedule)


NODES = [SelfAttentionGuidanceNode, SlidingWindowGuidance]
