"""ComfyUI's core nodes that combine and place conditionings, for the embedded host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..api import comfy_io as io

Conditioning = list[list[Any]]
CATEGORY = "model/conditioning/transform"
RESOLUTION_MAX = 16384


def with_values(conditioning: Conditioning, **values: Any) -> Conditioning:
    """Return a conditioning with values set in every entry."""
    return [[entry[0], {**entry[1], **values}] for entry in conditioning]


class ConditioningCombine(io.ComfyNode):
    """Let two conditionings steer together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ConditioningCombine",
            display_name="Conditioning (Combine)",
            category=CATEGORY,
            description="Let two conditionings steer together, each with a model call of its own.",
            inputs=[
                io.Conditioning.Input("conditioning_1", tooltip="The first."),
                io.Conditioning.Input("conditioning_2", tooltip="The second."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning_1: Conditioning, conditioning_2: Conditioning) -> io.NodeOutput:
        """Return the entries of both."""
        return io.NodeOutput(conditioning_1 + conditioning_2)


class ConditioningConcat(io.ComfyNode):
    """Append the tokens of one conditioning to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ConditioningConcat",
            display_name="Conditioning (Concat)",
            category=CATEGORY,
            description="Append the tokens of one conditioning to those of another.",
            inputs=[
                io.Conditioning.Input("conditioning_to", tooltip="The one that goes on."),
                io.Conditioning.Input("conditioning_from", tooltip="The one whose first entry is appended."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning_to: Conditioning, conditioning_from: Conditioning) -> io.NodeOutput:
        """Return the longer conditioning."""
        tokens = conditioning_from[0][0]
        return io.NodeOutput([[torch.cat((entry[0], tokens), 1), dict(entry[1])] for entry in conditioning_to])


class ConditioningSetArea(io.ComfyNode):
    """Limit a conditioning to a rectangle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        size = {"default": 64, "min": 64, "max": RESOLUTION_MAX, "step": 8}
        place = {"default": 0, "min": 0, "max": RESOLUTION_MAX, "step": 8}
        return io.Schema(
            node_id="ConditioningSetArea",
            display_name="Conditioning (Set Area)",
            category=CATEGORY,
            description="Limit a conditioning to a rectangle of the picture.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="What is limited."),
                io.Int.Input("width", **size, tooltip="Width of the rectangle in pixels."),
                io.Int.Input("height", **size, tooltip="Height of the rectangle in pixels."),
                io.Int.Input("x", **place, tooltip="Its left edge in pixels."),
                io.Int.Input("y", **place, tooltip="Its upper edge in pixels."),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="Its weight."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls, conditioning: Conditioning, width: int, height: int, x: int, y: int, strength: float
    ) -> io.NodeOutput:
        """Return the limited conditioning."""
        area = (height // 8, width // 8, y // 8, x // 8)
        return io.NodeOutput(with_values(conditioning, area=area, strength=strength, set_area_to_bounds=False))


class ConditioningSetMask(io.ComfyNode):
    """Limit a conditioning to a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ConditioningSetMask",
            display_name="Conditioning (Set Mask)",
            category=CATEGORY,
            description="Limit a conditioning to a mask.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="What is limited."),
                io.Mask.Input("mask", tooltip="1 where it steers."),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="Its weight."),
                io.Combo.Input(
                    "set_cond_area",
                    options=["default", "mask bounds"],
                    tooltip="Whether the model sees the whole picture or only the rectangle around the mask.",
                ),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Conditioning, mask: Tensor, strength: float, set_cond_area: str) -> io.NodeOutput:
        """Return the limited conditioning."""
        mask = mask.reshape(-1, *mask.shape[-2:])
        bounds = set_cond_area != "default"
        return io.NodeOutput(with_values(conditioning, mask=mask, set_area_to_bounds=bounds, mask_strength=strength))


class ConditioningSetTimestepRange(io.ComfyNode):
    """Limit a conditioning to a part of the run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        share = {"min": 0.0, "max": 1.0, "step": 0.001}
        return io.Schema(
            node_id="ConditioningSetTimestepRange",
            display_name="ConditioningSetTimestepRange",
            category=CATEGORY,
            description="Limit a conditioning to a part of the sampling run.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="What is limited."),
                io.Float.Input("start", default=0.0, **share, tooltip="Where it begins, 0 to 1."),
                io.Float.Input("end", default=1.0, **share, tooltip="Where it ends, 0 to 1."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Conditioning, start: float, end: float) -> io.NodeOutput:
        """Return the limited conditioning."""
        return io.NodeOutput(with_values(conditioning, start_percent=start, end_percent=end))


NODES = [
    ConditioningCombine,
    ConditioningConcat,
    ConditioningSetArea,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
]
