"""The scale of attention's scores, as a node."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import KINDS, parse
from ..ldm_patched.patches.temperature import AttentionTemperature
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, window


class AttentionTemperatureNode(io.ComfyNode):
    """Sharpen or flatten attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayAttentionTemperature",
            display_name="Attention Temperature",
            category=CATEGORY,
            description="Sharpen or flatten attention by a constant temperature, and keep its entropy in pictures "
            "larger or smaller than the model was trained on.",
            search_aliases=[
                "UNet temperature",
                "attention scale",
                "softmax temperature",
                "entropy scaling",
                "high resolution",
                "sharpen attention",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.Float.Input(
                    "temperature",
                    default=0.9,
                    min=0.05,
                    max=20.0,
                    step=0.05,
                    tooltip="Scores are divided by it: below 1 sharper attention, above 1 flatter; 1 changes nothing.",
                ),
                _side("trained_width", "Width"),
                _side("trained_height", "Height"),
                blocks(),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="self",
                    tooltip="Self-attention (attn1), cross-attention to the text (attn2), or both. The trained size "
                    "is for self-attention alone.",
                ),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this temperature.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        temperature: float | None = None,
        trained_width: int | None = None,
        trained_height: int | None = None,
        blocks: str | None = None,
        kind: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        if trained_width is None or trained_height is None:  # the rule is about both; one alone says nothing
            trained_width = trained_height = None
        own = {"temperature": temperature, "trained_width": trained_width, "trained_height": trained_height}
        shared = {"blocks": blocks, "kind": kind, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **own, **shared)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(**widgets), HOST))


def _side(name: str, side: str) -> Any:
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=16384,
        step=8,
        tooltip=f"{side} in pixels that the model was trained on (512 for SD1, 1024 for SDXL), to fit self-attention "
        "to pictures of another size; 0 leaves that out.",
    )


def make(
    temperature: float = 0.9,
    trained_width: int = 0,
    trained_height: int = 0,
    blocks: str = "all",
    kind: str = "self",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> AttentionTemperature:
    """Return the temperature of the widgets.

    Raises ValueError naming the value and the fix.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    address, schedule = parse(blocks).narrowed(kind), Schedule(start_percent, end_percent, curve)
    return AttentionTemperature(temperature, trained_width, trained_height, address, schedule)


NODES = [AttentionTemperatureNode]
