"""Regional prompting, as nodes."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.context import prompt_tokens
from ..ldm_patched.patches.regions import OVERLAPS, Region, RegionalPrompt
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import parse
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, model, number, patched, strength, window

Regions = io.Custom("PATCHBAY_REGIONS")


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
            search_aliases=["attention couple", "regional prompt", "area prompt", "latent couple"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt of this region: one prompt, its tokens."),
                io.Mask.Input("mask", tooltip="Where the prompt holds, of any size; one, or one for each picture."),
                number("weight", 1.0, 0.0, 100.0, "Its weight where regions overlap."),
                Regions.Input("regions", optional=True, tooltip="The regions before this one."),
            ],
            outputs=[Regions.Output(display_name="regions", tooltip="The regions before, and this one.")],
        )

    @classmethod
    def execute(cls, conditioning: Any, mask: Any, weight: float, regions: tuple[Region, ...] = ()) -> io.NodeOutput:
        """Return the longer chain."""
        masks = mask if mask.ndim == 3 else mask[None]
        return io.NodeOutput((*(regions or ()), Region(prompt_tokens(conditioning), masks, weight)))


class RegionalPromptNode(io.ComfyNode):
    """Let each region attend to its own prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayRegionalPrompt",
            display_name="Regional Prompt",
            category=CATEGORY,
            description="Let each region of the picture attend to a prompt of its own, without another model call.",
            search_aliases=["attention couple", "regional prompter", "area composition", "latent couple"],
            inputs=[
                model(),
                Regions.Input("regions", tooltip="A chain of Prompt Region nodes."),
                number("base", 0.0, 0.0, 1.0, "The share of the sampler's own prompt inside the regions."),
                io.Combo.Input(
                    "overlap",
                    options=list(OVERLAPS),
                    default="average",
                    tooltip="Where regions overlap: share by mask times weight, or lay each over those before it.",
                ),
                strength(1.0, "the regions is applied"),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[patched("these regions")],
        )

    @classmethod
    def validate_inputs(
        cls,
        base: float | None = None,
        overlap: str | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"base": base, "overlap": overlap, "strength": strength, "blocks": blocks, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, regions: tuple[Region, ...], **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make(regions, **widgets), HOST))


def make(
    regions: tuple[Region, ...] = (),
    base: float = 0.0,
    overlap: str = "average",
    strength: float = 1.0,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> RegionalPrompt:
    """Return the regional prompt of the widgets.

    Raises ValueError naming the value and the fix.
    """
    schedule = Schedule(start_percent, end_percent, curve)
    return RegionalPrompt(regions, base, overlap, strength, parse(blocks), schedule)


NODES = [PromptRegion, RegionalPromptNode]
