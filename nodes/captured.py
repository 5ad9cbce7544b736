"""What was captured, as nodes: maps to look at, and a file for scripts."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save

from ..ldm_patched.files.whole import replacing, write_new
from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.heatmap import alongside, overlay, sheet, view
from ..ldm_patched.patches.reading.maps import captured, contents, heat, only, statistics
from ._host import io, output_files
from .derived import CATEGORY

PIXELS = 8  # of the image in one latent pixel
BY = ("step", "block")


class AttentionMaps(io.ComfyNode):
    """Show what was gathered."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayAttentionMaps",
            display_name="Attention Maps",
            category=CATEGORY,
            description="After sampling: a heatmap over the picture and a mask for each word and point of Capture "
            "Attention, their maps by step or block, and how sharp each block looked.",
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
                io.Combo.Input(
                    "columns",
                    options=list(BY),
                    default="step",
                    optional=True,
                    tooltip="What the columns of the sheet are.",
                ),
                io.String.Input(
                    "word",
                    default="",
                    optional=True,
                    tooltip="Only the maps of this one of the captured words or points; empty for all.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="heatmaps", tooltip="All pictures with the map of the first word, then the next."
                ),
                io.Mask.Output(display_name="masks", tooltip="The masks in the same order."),
                io.String.Output(display_name="statistics", tooltip="Calls and entropy of each block."),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="The maps of the first picture: a row for each word or point, a column for each step or "
                    "block.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Patcher,
        latent: Latent,
        threshold: float,
        opacity: float,
        images: torch.Tensor | None = None,
        columns: str = "step",
        word: str = "",
    ) -> io.NodeOutput:
        """Return heatmaps, masks, statistics and the sheet, and show the maps in the node."""
        found, size = captured(model, latent["samples"]), image_size(latent, images)
        if word.strip():
            found = only(found, word)
        maps = torch.cat([heat(one.blocks.values(), size) for one in found]).flatten(0, 1)  # (labels * b, h, w)
        masks = maps if threshold == 0.0 else (maps >= threshold).float()
        heard = [one.heard for one in found]
        ui, first = {"attention": [view(heard, size, images)]}, heard[0].sums[0]
        count = first.attention.shape[1]
        below = None if images is None else alongside(images, count, first.frames, range(count))
        painted = overlay(maps, below, opacity)
        return io.NodeOutput(painted, masks, statistics(found), sheet(found, columns, size), ui=ui)


def image_size(latent: Latent, images: torch.Tensor | None = None) -> tuple[int, int]:
    """Return height and width of the images."""
    if images is not None:
        return int(images.shape[1]), int(images.shape[2])
    height, width = latent["samples"].shape[-2:]
    return PIXELS * height, PIXELS * width


class SaveAttentionMaps(io.ComfyNode):
    """Write what was gathered to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbaySaveAttentionMaps",
            display_name="Save Attention Maps",
            category=CATEGORY,
            description="After sampling: write the maps of Capture Attention to the output folder, as numbers in a "
            ".safetensors file with a .json beside it that says what they are.",
            search_aliases=["export attention", "attention safetensors", "attention to numpy"],
            inputs=[
                io.Model.Input("model", tooltip="The very model that the sampler got."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes the file wait for the run."),
                io.String.Input(
                    "filename_prefix",
                    default="attention/maps",
                    tooltip="Where in the output folder; a number is added. %year%, %month%, %day% and the like work.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The path of the .safetensors file.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Patcher, latent: Latent, filename_prefix: str) -> io.NodeOutput:
        """Write both files and return the path of the first."""
        tensors, about = contents(captured(model, latent["samples"]))
        data = save(tensors, {"patchbay": json.dumps(about)})
        path = write_new(output_files(filename_prefix, ".safetensors"), lambda file: file.write(data))
        with replacing(path.with_suffix(".json")) as file:
            file.write(json.dumps(about, indent=1).encode())
        return io.NodeOutput(str(path), ui={"text": [str(path)]})
