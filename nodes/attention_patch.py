"""Elementary changes of attention, as a node."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.attention_patch import OPERATIONS, SLOTS, AttentionPatch
from ..ldm_patched.patches.context import prompt_tokens
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import parse
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, window


class AttentionPatchNode(io.ComfyNode):
    """Change one slot of the attention in some blocks, over a schedule."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayAttentionPatch",
            display_name="Attention Patch",
            category=CATEGORY,
            description="Change the queries, keys, values or outputs of attention in some blocks, over a part of "
            "the run. Any number of patches stack in the order of the graph.",
            search_aliases=[
                "attn1 patch",
                "attn2 patch",
                "attention multiply",
                "perturbed attention",
                "attention temperature",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.Combo.Input(
                    "slot",
                    options=list(SLOTS),
                    default="attn1.out",
                    tooltip="attn1 is self-attention, attn2 cross-attention to the text; q queries, k keys, v values, "
                    "out the output; middle lies between the two. block: what whole UNet blocks hand on: input and "
                    "after_skip of input blocks, middle, and output (backbone) and skip of output blocks.",
                ),
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default="scale",
                    tooltip="scale: times value. temperature: flatter attention above 1, sharper below (q or k). "
                    "identity: each token attends to itself (attn1.out). mean: towards the mean over the tokens. "
                    "zero: towards zero. clamp: cut off at -value and value. noise: value deviations of noise. blur: "
                    "over the picture, value tokens wide. gain: factors of channels. shuffle: other order of tokens. "
                    "towards: to another prompt (attn2.k, attn2.v).",
                ),
                io.Float.Input(
                    "value",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="The factor of scale or temperature (1 changes nothing), the bound of clamp, the width of "
                    "blur, the amount of noise. Other operations do not use it.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the operation is applied, 0 to 1; 0 changes nothing.",
                ),
                blocks(),
                *window(),
                curve(),
                io.String.Input(
                    "channels",
                    default="",
                    optional=True,
                    tooltip="For gain: channels and their factors, such as 0:1.5, 4-7:0, 100-:0.5.",
                ),
                io.Conditioning.Input(
                    "conditioning", optional=True, tooltip="For towards: the prompt to go to; one prompt, its tokens."
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this patch on top.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        slot: str | None = None,
        operation: str | None = None,
        value: float | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
        channels: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        return check(
            make,
            slot=slot,
            operation=operation,
            value=value,
            strength=strength,
            blocks=blocks,
            start_percent=start_percent,
            end_percent=end_percent,
            curve=curve,
            channels=channels,
        )

    @classmethod
    def execute(cls, model: object, conditioning: Any = None, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        other = None if conditioning is None else prompt_tokens(conditioning)
        return io.NodeOutput(attach(model, make(other=other, **widgets), HOST))


def make(
    slot: str = "attn1.out",
    operation: str = "scale",
    value: float = 1.0,
    strength: float = 1.0,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
    channels: str = "",
    other: Tensor | None = None,
) -> AttentionPatch:
    """Return the patch of the widgets.

    Raises ValueError naming the value and the fix.
    """
    schedule = Schedule(start_percent, end_percent, curve)
    return AttentionPatch(slot, operation, value, strength, parse(blocks), schedule, channels, other)


NODES = [AttentionPatchNode]
