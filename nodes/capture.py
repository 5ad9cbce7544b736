"""Attention maps of words, as nodes."""

from __future__ import annotations

import re
from typing import Any

import torch

from ..ldm_patched.patches.alignment import token_ids
from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.capture import Capture, Sums, Word, captured, heat
from ..ldm_patched.patches.report import layout
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import BlockId, parse
from ..ldm_patched.patches.words import locate
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, model, patched, window

PIXELS = 8  # of the picture in one latent pixel
# Points of a map from dark blue over green to yellow, whose lightness rises evenly and which the colour-blind can read.
COLOURS = torch.tensor([[0.0, 0.13, 0.3], [0.25, 0.3, 0.42], [0.49, 0.48, 0.47], [0.74, 0.68, 0.41], [1.0, 0.92, 0.27]])


class CaptureAttention(io.ComfyNode):
    """Gather where the words of a prompt draw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayCaptureAttention",
            display_name="Capture Attention",
            category=CATEGORY,
            description="Gather what each part of the picture attends to while it is sampled. Attention Maps shows it "
            "after the sampler. The picture does not change.",
            search_aliases=["attention heatmap", "daam", "cross attention map", "which word drew what"],
            inputs=[
                model("look into"),
                io.Clip.Input("clip", tooltip="The CLIP that encodes the prompt."),
                io.String.Input("prompt", default="", multiline=True, tooltip="The positive prompt, as it is encoded."),
                io.String.Input("words", default="", tooltip="Words or phrases, parted by commas: one map for each."),
                blocks("output"),
                *window(),
                curve(),
            ],
            outputs=[patched("this capture")],
        )

    @classmethod
    def validate_inputs(
        cls,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        return check(make, blocks=blocks, start_percent=start_percent, end_percent=end_percent, curve=curve)

    @classmethod
    def execute(cls, model: object, clip: Any, prompt: str, words: str, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        wanted = [part.strip() for part in re.split(r"[,\n]", words) if part.strip()] or [""]
        found = tuple(Word(word, locate(clip, prompt, word)) for word in wanted)
        return io.NodeOutput(attach(model, make(found, len(token_ids(clip, prompt)), **widgets), HOST))


def make(
    words: tuple[Word, ...] = (),
    length: int = 77,
    blocks: str = "output",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> Capture:
    """Return the capture of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return Capture(words, length, parse(blocks), Schedule(start_percent, end_percent, curve))


class AttentionMaps(io.ComfyNode):
    """Show what was gathered."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayAttentionMaps",
            display_name="Attention Maps",
            category=CATEGORY,
            description="After sampling: a heatmap over the picture and a mask for each word of Capture Attention, and "
            "how sharp each block looked.",
            search_aliases=["attention heatmap", "daam", "word mask from attention", "attention viewer"],
            inputs=[
                io.Model.Input("model", tooltip="The very model that the sampler got."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes the maps wait for the run."),
                io.Image.Input("images", optional=True, tooltip="The decoded pictures, to draw the maps on."),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="What part of a map's highest value belongs to the mask; 0 gives the map itself as mask.",
                ),
                io.Float.Input(
                    "opacity", default=0.7, min=0.0, max=1.0, step=0.01, tooltip="How much the map covers the picture."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="heatmaps", tooltip="All pictures with the map of the first word, then the next."
                ),
                io.Mask.Output(display_name="masks", tooltip="The masks in the same order."),
                io.String.Output(display_name="statistics", tooltip="Calls and entropy of each block."),
            ],
        )

    @classmethod
    def execute(
        cls, model: object, latent: Any, threshold: float, opacity: float, images: torch.Tensor | None = None
    ) -> io.NodeOutput:
        """Return heatmaps, masks and statistics."""
        capture, found = captured(model)
        size = images.shape[1:3] if images is not None else [PIXELS * side for side in latent["samples"].shape[-2:]]
        maps = heat(found.values(), (int(size[0]), int(size[1]))).flatten(0, 1)  # (words * b, h, w)
        masks = maps if threshold == 0.0 else (maps >= threshold).float()
        return io.NodeOutput(overlay(maps, images, opacity), masks, statistics(capture, found))


def overlay(maps: torch.Tensor, images: torch.Tensor | None, opacity: float) -> torch.Tensor:
    """Paint maps (words * b, h, w) of 0..1 over pictures (b, h, w, 3), or alone: (words * b, h, w, 3)."""
    place = maps * (len(COLOURS) - 1)
    low = place.long().clamp(max=len(COLOURS) - 2)
    painted = torch.lerp(COLOURS[low], COLOURS[low + 1], (place - low)[..., None])
    if images is None:
        return painted
    below = images[..., :3].cpu().float().repeat(len(maps) // len(images) + 1, 1, 1, 1)[: len(maps)]
    return torch.lerp(below, painted, opacity)


def statistics(capture: Capture, found: dict[BlockId, Sums]) -> str:
    """Return a table: for each block its calls, the part of attention that each word gets, and the entropy in nats."""
    words = [word.text for word in capture.words]
    lines = [["block", "calls", "tokens", *words, "entropy (least, mean, most of the heads)"]]
    for block, sums in found.items():
        shares = [f"{float(share):.4f}" for share in (sums.attention / sums.calls).mean(dim=(1, 2))]
        heads = sums.entropy / sums.calls
        spread = ", ".join(f"{float(value):.2f}" for value in (heads.min(), heads.mean(), heads.max()))
        lines.append([str(block), str(sums.calls), "x".join(map(str, sums.grid)), *shares, spread])
    return "\n".join(layout(lines))


NODES = [CaptureAttention, AttentionMaps]
