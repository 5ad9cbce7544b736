"""Words within a mask, as a node."""

from __future__ import annotations

from typing import Any

import torch

from ..ldm_patched.patches.alignment import token_ids
from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import parse
from ..ldm_patched.patches.word_mask import WordMask
from ..ldm_patched.patches.words import locate
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, model, patched, strength, window


class WordMaskNode(io.ComfyNode):
    """Let only a part of the picture attend to some words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayWordMask",
            display_name="Word Mask",
            category=CATEGORY,
            description="Say where words of the prompt may act: outside the mask, the picture cannot attend to them.",
            search_aliases=["attention mask", "token mask", "limit word", "color bleeding", "prompt mask"],
            inputs=[
                model(),
                io.Clip.Input("clip", tooltip="The CLIP that encodes the prompt."),
                io.Mask.Input("mask", tooltip="Where the words may act, of any size; one, or one for each picture."),
                io.String.Input("prompt", default="", multiline=True, tooltip="The positive prompt, as it is encoded."),
                io.String.Input("words", default="", tooltip="Words or phrases of the prompt, parted by commas."),
                strength(1.0, "the limit is applied"),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[patched("this limit")],
        )

    @classmethod
    def validate_inputs(
        cls,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"strength": strength, "blocks": blocks, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(
        cls, model: object, clip: Any, mask: torch.Tensor, prompt: str, words: str, **widgets: Any
    ) -> io.NodeOutput:
        """Return the clone."""
        masks = mask if mask.ndim == 3 else mask[None]
        return io.NodeOutput(
            attach(model, make(locate(clip, prompt, words), masks, len(token_ids(clip, prompt)), **widgets), HOST)
        )


def make(
    positions: tuple[int, ...] = (),
    mask: torch.Tensor | None = None,
    length: int = 77,
    strength: float = 1.0,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> WordMask:
    """Return the word mask of the widgets.

    Raises ValueError naming the value and the fix.
    """
    masks = torch.ones(1, 1, 1) if mask is None else mask
    schedule = Schedule(start_percent, end_percent, curve)
    return WordMask(positions, masks, length, strength, parse(blocks), schedule)


NODES = [WordMaskNode]
