"""ComfyUI's core nodes that make self-attention cheaper, with the draws that ComfyUI makes, for the embedded host."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ldm_patched.patches.methods.tiled_attention import cut, join
from ...ldm_patched.patches.methods.token_merging import draw_cells, match, merge, unmerge
from ..api import comfy_io as io
from .declared import Nodes
from .model_patches import patched_model

NODES = Nodes("model/patch/unet")
LEAST_TILE, PIXELS = 32, 8
Options = dict[str, Any]


@dataclass
class Tiles:
    """Cut the tokens of a call into tiles before attention, and join them after it (tfernd's HyperTile)."""

    size: int  # in latent pixels
    swap: int
    depth: int
    larger_below: bool
    cut_to: tuple[int, int, int, int] | None = None  # tiles and tokens, down and across, of the call in progress

    def before(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        """Cut the queries (b, tokens, c); keys and values stay whole."""
        height, width = options["original_shape"][-2:]
        level = next((i for i in range(self.depth + 1) if q.shape[1] == height / 2**i * (width / 2**i)), None)
        if level is None:
            return q, k, v
        tokens, aspect = q.shape[1], width / height
        # ComfyUI takes the longer side of a wide picture for its height; the tokens of a square one are the same
        h, w = round(math.sqrt(tokens * aspect)), round(math.sqrt(tokens / aspect))
        least = self.size * (2**level if self.larger_below else 1)
        rows, columns = tile_count(h, least, self.swap), tile_count(w, least, self.swap)
        if rows * columns > 1:
            q = cut(q.unflatten(1, (h, w)), rows, columns)
            self.cut_to = (rows, columns, h, w)
        return q, k, v

    def after(self, out: Tensor, options: Options) -> Tensor:
        """Join what attention made of the tiles."""
        if self.cut_to is None:
            return out
        (rows, columns, h, w), self.cut_to = self.cut_to, None
        return join(out, rows, columns, (h // rows, w // columns)).flatten(1, 2)


def tile_count(side: int, least: int, options: int) -> int:
    """Return into how many tiles of at least so many tokens a side is cut; drawn from the largest `options` numbers."""
    least = min(least, side)
    counts = [side // size for size in range(least, side + 1) if side % size == 0][:options]
    return counts[int(torch.randint(0, len(counts) - 1, (1,)))] if len(counts) > 1 else counts[0]


@NODES.add(
    "HyperTile",
    "HyperTile",
    [
        patched_model(),
        io.Int.Input("tile_size", default=256, min=1, max=2048, advanced=True, tooltip="Least side of a tile."),
        io.Int.Input("swap_size", default=2, min=1, max=128, advanced=True, tooltip="Of how many sizes one is drawn."),
        io.Int.Input("max_depth", default=0, min=0, max=10, advanced=True, tooltip="How many stages down it is done."),
        io.Boolean.Input("scale_depth", default=False, advanced=True, tooltip="Whether tiles are larger below."),
    ],
    io.Model,
)
def hyper_tile(model: Any, tile_size: int, swap_size: int, max_depth: int, scale_depth: bool) -> Any:
    """Let queries of self-attention be cut into tiles."""
    tiles = Tiles(max(LEAST_TILE, tile_size) // PIXELS, swap_size, max_depth, scale_depth)
    model = model.clone()
    model.set_model_attn1_patch(tiles.before)
    model.set_model_attn1_output_patch(tiles.after)
    return model


@dataclass
class Merging:
    """Merge similar queries before attention, and copy its result to each of them after it (Bolya & Hoffman 2023)."""

    ratio: float
    place: Tensor | None = None  # of each token in what is left, in the call in progress

    def before(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
        """Merge the queries (b, tokens, c) of the largest stage; keys and values stay whole."""
        height, width = options["original_shape"][-2:]
        count = int(q.shape[1] * self.ratio)
        if q.shape[1] < height * width or count <= 0 or 1 in (height, width):
            return q, k, v
        destinations, sources = (part.to(q.device) for part in draw_cells((height, width), torch.default_generator))
        count = min(count, len(sources))
        self.place = match(q, destinations, sources, count)
        return merge(q, self.place, q.shape[1] - count), k, v

    def after(self, out: Tensor, options: Options) -> Tensor:
        """Copy the result to all that were merged."""
        place, self.place = self.place, None
        return out if place is None else unmerge(out, place)


@NODES.add(
    "TomePatchModel",
    "TomePatchModel",
    [
        patched_model(),
        io.Float.Input("ratio", default=0.3, min=0.0, max=1.0, step=0.01, tooltip="The part that is merged."),
    ],
    io.Model,
)
def tome_patch_model(model: Any, ratio: float) -> Any:
    """Let similar queries of self-attention be merged."""
    merging = Merging(ratio)
    model = model.clone()
    model.set_model_attn1_patch(merging.before)
    model.set_model_attn1_output_patch(merging.after)
    return model
