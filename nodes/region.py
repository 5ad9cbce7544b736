"""One region of Regional Prompt, as a node."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ldm_patched.patches.addressing.frames import WIDGET, parse_frames
from ..ldm_patched.patches.engine.prompts import Conditioning, prompt_of
from ..ldm_patched.patches.methods.regional_prompt import Region
from ._host import io
from .derived import CATEGORY, checking_text

Regions = io.Custom("PATCHBAY_REGIONS")


def frames_input() -> Any:
    """Return the input for when in a video a region holds."""
    return io.String.Input(
        WIDGET,
        default="",
        optional=True,
        tooltip="When in a video the prompt holds: 0-50%, 0-12 or 25- of its frames, several with commas, fade 8 "
        "behind them for soft edges; empty: always.",
    )


class PromptRegion(io.ComfyNode):
    """One region: a prompt and where it holds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayRegion",
            display_name="Prompt Region",
            category=CATEGORY,
            description="A prompt and the mask of where it holds, for Regional Prompt. Chain as many as you like.",
            search_aliases=["attention couple", "regional prompt", "area prompt", "latent couple", "draw region"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt of this region: one prompt, its tokens."),
                io.Mask.Input(
                    "mask", tooltip="Where the prompt holds, of any size; one, or one for each picture or frame."
                ),
                io.Float.Input(
                    "weight", default=1.0, min=0.0, max=100.0, step=0.05, tooltip="Its weight where regions overlap."
                ),
                Regions.Input("regions", optional=True, tooltip="The regions before this one."),
                frames_input(),
            ],
            outputs=[Regions.Output(display_name="regions", tooltip="The regions before, and this one.")],
        )

    validate_inputs = checking_text(WIDGET, parse_frames)

    @classmethod
    def execute(
        cls, conditioning: Conditioning, mask: Tensor, weight: float, regions: tuple[Region, ...] = (), frames: str = ""
    ) -> io.NodeOutput:
        """Return the longer chain."""
        masks = mask if mask.ndim == 3 else mask[None]
        return io.NodeOutput(
            (*(regions or ()), Region(prompt_of(conditioning), masks, weight, frames=parse_frames(frames)))
        )
