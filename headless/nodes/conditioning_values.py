"""ComfyUI's core nodes that change the numbers of conditionings, for the embedded host."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F

from ..api import comfy_io as io
from .conditioning import CATEGORY, Conditioning, with_values
from .declared import Nodes

NODES = Nodes(CATEGORY)
log = logging.getLogger(__name__)
POOLED = "pooled_output"


def conditioning() -> io.Input:
    """Return the input of a conditioning."""
    return io.Conditioning.Input("conditioning", tooltip="The conditioning; the input itself stays as it is.")


def _strength() -> io.Input:
    return io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="Its weight.")


@NODES.add(
    "ConditioningAverage",
    "Conditioning (Average)",
    [
        io.Conditioning.Input("conditioning_to", tooltip="The conditionings."),
        io.Conditioning.Input("conditioning_from", tooltip="The one whose first entry is mixed in."),
        io.Float.Input(
            "conditioning_to_strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="How much of the first."
        ),
    ],
    io.Conditioning,
)
def conditioning_average(
    conditioning_to: Conditioning, conditioning_from: Conditioning, conditioning_to_strength: float
) -> Conditioning:
    """Mix a conditioning with another one."""
    if len(conditioning_from) > 1:
        log.warning("ConditioningAverage: only the first entry of conditioning_from is mixed in")
    kept, (other, about) = conditioning_to_strength, conditioning_from[0]
    pooled_from, out = about.get(POOLED), []
    for tokens, values in conditioning_to:
        cut = other[:, : tokens.shape[1]]
        cut = F.pad(cut, (0, 0, 0, tokens.shape[1] - cut.shape[1]))
        values = dict(values)
        if pooled_from is not None:
            values[POOLED] = values.get(POOLED, pooled_from) * kept + pooled_from * (1.0 - kept)
        out.append([tokens * kept + cut * (1.0 - kept), values])
    return out


@NODES.add(
    "ConditioningMultiply",
    "Conditioning (Multiply)",
    [
        conditioning(),
        io.Float.Input("multiplier", default=1.0, min=-100.0, max=100.0, step=0.01, tooltip="The factor."),
    ],
    io.Conditioning,
)
def conditioning_multiply(conditioning: Conditioning, multiplier: float) -> Conditioning:
    """Multiply a conditioning by a number."""
    return [
        [tokens * multiplier, {k: v * multiplier if k == POOLED else v for k, v in values.items()}]
        for tokens, values in conditioning
    ]


@NODES.add("ConditioningZeroOut", "Conditioning Zero Out", [conditioning()], io.Conditioning)
def conditioning_zero_out(conditioning: Conditioning) -> Conditioning:
    """Set a conditioning to zero."""
    return [
        [torch.zeros_like(tokens), {k: torch.zeros_like(v) if k == POOLED else v for k, v in values.items()}]
        for tokens, values in conditioning
    ]


@NODES.add(
    "ConditioningSetAreaPercentage",
    "Conditioning (Set Area with Percentage)",
    [
        conditioning(),
        *(
            io.Float.Input(
                name, default=default, min=0, max=1.0, step=0.01, tooltip=f"{what}, as a share of the picture."
            )
            for name, default, what in (
                ("width", 1.0, "Width"),
                ("height", 1.0, "Height"),
                ("x", 0, "The left edge"),
                ("y", 0, "The upper edge"),
            )
        ),
        _strength(),
    ],
    io.Conditioning,
)
def conditioning_set_area_percentage(
    conditioning: Conditioning, width: float, height: float, x: float, y: float, strength: float
) -> Conditioning:
    """Limit a conditioning to a rectangle, in shares of the picture."""
    area = ("percentage", height, width, y, x)
    return with_values(conditioning, area=area, strength=strength, set_area_to_bounds=False)


@NODES.add(
    "ConditioningSetAreaStrength",
    "Conditioning (Set Area Strength)",
    [conditioning(), _strength()],
    io.Conditioning,
)
def conditioning_set_area_strength(conditioning: Conditioning, strength: float) -> Conditioning:
    """Give a conditioning a weight."""
    return with_values(conditioning, strength=strength)
