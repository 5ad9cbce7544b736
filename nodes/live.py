"""Masks that words make of themselves while the picture is drawn, as nodes."""

from __future__ import annotations

from typing import Any

import torch

from ..ldm_patched.patches.addressing.frames import WIDGET, parse_frames
from ..ldm_patched.patches.addressing.refused import Refused
from ..ldm_patched.patches.engine.declaration import NODE
from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.engine.prompts import Conditioning, prompt_of
from ..ldm_patched.patches.methods.live_mask import AGAINST, SETTINGS, SOURCE, LiveMask, check_word
from ..ldm_patched.patches.methods.regional_prompt import Region
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.heatmap import alongside
from ..ldm_patched.patches.reading.live_masks import live_masks
from ._host import io
from .captured import image_size
from .derived import CATEGORY, checking, own_id, own_run, shown
from .region import Regions, frames_input

DARK = 0.25  # of the light that the preview leaves outside of a mask


class LiveRegion(io.ComfyNode):
    """One region: a prompt, and the word of the sampler's prompt that says where it holds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayLiveRegion",
            display_name="Region by Word",
            category=CATEGORY,
            description="A prompt for Regional Prompt that holds where a word of the sampler's prompt draws: that "
            "word's own attention in the first steps of the run becomes the mask. No mask to draw, no second run.",
            search_aliases=[
                "auto mask",
                "attention mask",
                "region from word",
                "live mask",
                "regional prompt without mask",
                "attention couple",
                "daam",
            ],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt of this region: one prompt, its tokens."),
                *map(shown, (*SOURCE, *SETTINGS)),
                io.Float.Input(
                    "weight", default=1.0, min=0.0, max=100.0, step=0.05, tooltip="Its weight where regions overlap."
                ),
                Regions.Input("regions", optional=True, tooltip="The regions before this one."),
                frames_input(),
                shown(AGAINST),
            ],
            outputs=[Regions.Output(display_name="regions", tooltip="The regions before, and this one.")],
            **own_run(),
        )

    validate_inputs = checking(
        ["word", *(widget.name for widget in SETTINGS), WIDGET], lambda widgets: refused(widgets)
    )

    @classmethod
    def execute(
        cls,
        conditioning: Conditioning,
        weight: float,
        regions: tuple[Region, ...] = (),
        frames: str = "",
        **asked: Any,
    ) -> io.NodeOutput:
        """Return the longer chain."""
        mask = LiveMask.asked({**asked, NODE: own_id(cls)})
        found = Region(prompt_of(conditioning), mask, weight, frames=parse_frames(frames))
        return io.NodeOutput((*(regions or ()), found))


def refused(widgets: dict[str, Any]) -> Refused | None:
    """Return why the settings of a live region are wrong, None if they are not."""
    try:
        LiveMask.check_settings(widgets)
        check_word("word", widgets["word"])
        parse_frames(widgets.get(WIDGET) or "")
    except Refused as error:
        return error
    return None


class LiveMasks(io.ComfyNode):
    """The masks that were used."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayLiveMasks",
            display_name="Live Masks",
            category=CATEGORY,
            description="After sampling: the masks that the run made of words for Region by Word and Word Mask by "
            "Word, to look at, or for a detailer.",
            search_aliases=["auto mask", "attention mask", "mask from word", "detailer mask", "segment by word"],
            inputs=[
                io.Model.Input("model", tooltip="The very model that the sampler got."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes the masks wait for the run."),
                io.Image.Input("images", optional=True, tooltip="The decoded pictures, to draw the masks on."),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks", tooltip="All pictures with the mask of the first word, then of the next."
                ),
                io.Image.Output(display_name="previews", tooltip="The masks over the pictures, in the same order."),
                io.String.Output(display_name="about", tooltip="For each word, when its mask was made and its share."),
            ],
        )

    @classmethod
    def execute(cls, model: Patcher, latent: Latent, images: torch.Tensor | None = None) -> io.NodeOutput:
        """Return the masks, the previews and a line for each word."""
        found = live_masks(model, latent["samples"], image_size(latent, images))
        masks, count = torch.cat([mask for _, mask in found]), len(found[0][1])
        frames = latent["samples"].shape[2] if latent["samples"].ndim == 5 else 1
        below = None if images is None else alongside(images, count, frames, range(count))
        return io.NodeOutput(masks, preview(masks, below), "\n".join(told for told, _ in found))


def preview(masks: torch.Tensor, images: torch.Tensor | None) -> torch.Tensor:
    """Return the pictures (n, h, w, 3) for masks (n, h, w), darker outside; white ones where there are none."""
    white = torch.ones(1, *masks.shape[1:], 3)
    below = white if images is None else images[..., :3].cpu().float()
    again = below.repeat(len(masks) // len(below), 1, 1, 1)
    return again * (DARK + (1.0 - DARK) * masks[..., None])
