"""Regional prompts from areas that are drawn in the node, or written: everything that a sampler needs of them."""

from __future__ import annotations

from typing import Any

import torch

from ..ldm_patched.patches.addressing.areas import WIDGET, paint, parse_areas
from ..ldm_patched.patches.engine.attach import attach
from ..ldm_patched.patches.engine.declaration import made
from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.engine.prompts import prompt_of
from ..ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from ..ldm_patched.patches.patcher import Patcher
from ._host import HOST, io
from .derived import CATEGORY, checking_text, model, patched
from .region import Regions

PROMPTS = {"multiline": True, "dynamic_prompts": True}
DEFAULT = "left -> \nright -> "


class DrawnRegions(io.ComfyNode):
    """Draw areas, and give each a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayDrawnRegions",
            display_name="Draw Regional Prompts",
            category=CATEGORY,
            description="Draw boxes and strokes on the picture and give each a prompt of its own; the rest has the "
            "whole picture's prompt. Gives the model, both prompts and the masks. What is drawn is text.",
            search_aliases=["attention couple", "regional prompter", "draw region", "two characters", "area prompt"],
            inputs=[
                model(),
                io.Clip.Input("clip", tooltip="The CLIP to encode the prompts with."),
                io.Latent.Input("latent", tooltip="The latent for the sampler: its size is that of the masks."),
                io.String.Input("prompt", tooltip="The prompt of the whole picture.", **PROMPTS),
                io.String.Input("negative", tooltip="What not to draw, anywhere.", **PROMPTS),
                io.String.Input(
                    WIDGET,
                    default=DEFAULT,
                    tooltip="A line for each area: where -> prompt. Where is left, right, top, bottom, all, a box (x y "
                    "width height, such as 0 0 0.5 1), brush 0.1: 0.2 0.3, 0.4 0.3; several joined by +, of which "
                    "erase 0.1: 0.2 0.3 takes off; or 1:2 for columns, 1/2 for rows, 2x2 for a grid, with prompts "
                    "parted by bars. In a video frames 0-50%, 0-12 or 25- behind it says when, with fade 8 for soft "
                    "edges.",
                    multiline=True,
                ),
                io.Float.Input(
                    "soft",
                    default=0.05,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="How soft the edges are, as a part of the longer side.",
                ),
                io.Float.Input(
                    "base",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="The share of the whole picture's prompt inside the areas.",
                ),
            ],
            outputs=[
                patched("with these regions"),
                io.Conditioning.Output(display_name="positive", tooltip="The prompt of the whole picture, encoded."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt, encoded."),
                Regions.Output(display_name="regions", tooltip="The areas as a chain, for Regional Prompt."),
                io.Mask.Output(display_name="masks", tooltip="A mask for each area."),
            ],
        )

    validate_inputs = checking_text(WIDGET, parse_areas)

    @classmethod
    def execute(
        cls,
        model: Patcher,
        clip: Any,
        latent: Latent,
        prompt: str,
        negative: str,
        regions: str,
        soft: float,
        base: float,
    ) -> io.NodeOutput:
        """Return the clone with the regions, both prompts, the regions and their masks."""
        height, width = latent["samples"].shape[-2:]
        areas = parse_areas(regions)
        masks = [paint(area, (height, width), soft) for area in areas]

        def encode(text: str) -> Any:
            return clip.encode_from_tokens_scheduled(clip.tokenize(text))

        found = tuple(
            Region(prompt_of(encode(area.prompt)), mask, frames=area.frames)
            for area, mask in zip(areas, masks, strict=True)
        )
        method = made(RegionalPrompt, {"regions": found, "base": base, "overlap": "last on top"})
        drawn = torch.cat(masks) if masks else torch.zeros(1, height, width)
        return io.NodeOutput(attach(model, method, HOST), encode(prompt), encode(negative), found, drawn)
