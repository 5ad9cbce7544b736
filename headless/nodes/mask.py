"""ComfyUI's core nodes that make masks, for the embedded host."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..api import comfy_io as io
from .conditioning import RESOLUTION_MAX

CATEGORY = "image/mask"


def _rounded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: function(a.round().bool(), b.round().bool()).float()


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "multiply": torch.mul,
    "add": torch.add,
    "subtract": torch.sub,
    "and": _rounded(torch.logical_and),
    "or": _rounded(torch.logical_or),
    "xor": _rounded(torch.logical_xor),
}


class SolidMask(io.ComfyNode):
    """Make a mask of one value."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        size = {"default": 512, "min": 1, "max": RESOLUTION_MAX, "step": 1}
        return io.Schema(
            node_id="SolidMask",
            display_name="Create Solid Mask",
            category=CATEGORY,
            description="Make a mask of one value.",
            inputs=[
                io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="1 is inside, 0 outside."),
                io.Int.Input("width", **size, tooltip="Width in pixels."),
                io.Int.Input("height", **size, tooltip="Height in pixels."),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> io.NodeOutput:
        """Return the mask (1, height, width)."""
        return io.NodeOutput(torch.full((1, height, width), value))


class InvertMask(io.ComfyNode):
    """Turn a mask inside out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="InvertMask",
            display_name="Invert Mask",
            category=CATEGORY,
            description="Turn a mask inside out.",
            inputs=[io.Mask.Input("mask", tooltip="The mask.")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask: Tensor) -> io.NodeOutput:
        """Return 1 less the mask."""
        return io.NodeOutput(1.0 - mask)


class MaskComposite(io.ComfyNode):
    """Combine a mask with another one at a place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        place = {"default": 0, "min": 0, "max": RESOLUTION_MAX, "step": 1}
        return io.Schema(
            node_id="MaskComposite",
            display_name="Combine Masks",
            category=CATEGORY,
            description="Combine a mask with another one, laid on it at a place.",
            inputs=[
                io.Mask.Input("destination", tooltip="The mask below."),
                io.Mask.Input("source", tooltip="The mask laid on it; what lies outside is cut off."),
                io.Int.Input("x", **place, tooltip="Pixels from the left."),
                io.Int.Input("y", **place, tooltip="Pixels from the top."),
                io.Combo.Input("operation", options=list(OPERATIONS), tooltip="How the two are combined."),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> io.NodeOutput:
        """Return the combined mask, between 0 and 1."""
        out = destination.reshape(-1, *destination.shape[-2:]).clone()
        below = out[:, y : y + source.shape[-2], x : x + source.shape[-1]]
        above = source.reshape(-1, *source.shape[-2:])[:, : below.shape[1], : below.shape[2]].to(out.device)
        below.copy_(OPERATIONS[operation](below, above))
        return io.NodeOutput(out.clamp(0.0, 1.0))


NODES = [SolidMask, InvertMask, MaskComposite]
