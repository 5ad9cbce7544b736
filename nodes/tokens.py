"""Self-attention with fewer tokens, as nodes: merging, tiles, downsampling."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.downsampling import METHODS, KeyValueDownsampling
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import parse
from ..ldm_patched.patches.tiling import TiledAttention
from ..ldm_patched.patches.token_merging import DESTINATIONS, LARGEST_RATIO, TokenMerging
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, window

MODEL_TOOLTIP = "The model to change; the input itself stays as it is."
OUTSIDE_MIDDLE = "input, output"  # the middle has the fewest tokens


class TokenMergingNode(io.ComfyNode):
    """Merge similar tokens around self-attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayTokenMerging",
            display_name="Token Merging",
            category=CATEGORY,
            description="Run self-attention on fewer tokens: similar ones are merged before it and share its result. "
            "Faster the larger the picture, at some cost in detail.",
            search_aliases=["ToMe", "tomesd", "TomePatchModel", "merge tokens", "faster"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Float.Input(
                    "ratio",
                    default=0.5,
                    min=0.0,
                    max=LARGEST_RATIO,
                    step=0.01,
                    tooltip="The part of the tokens that is merged away; 0 changes nothing, 0.75 leaves one of four.",
                ),
                io.Combo.Input(
                    "destination",
                    options=list(DESTINATIONS),
                    default="random",
                    tooltip="The token of each 2x2 cell that others merge into: random in each step (the same in every "
                    "run), or always the top-left one.",
                ),
                blocks(OUTSIDE_MIDDLE),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with merged tokens.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        ratio: float | None = None,
        destination: str | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"ratio": ratio, "destination": destination, "blocks": blocks, "curve": curve}
        return check(make_merging, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_merging(**widgets), HOST))


class TiledAttentionNode(io.ComfyNode):
    """Run self-attention within tiles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayTiledAttention",
            display_name="Tiled Attention (HyperTile)",
            category=CATEGORY,
            description="Run self-attention within tiles of the picture: several times faster for large pictures. "
            "Tiles do not see each other there; the rest of the model joins them.",
            search_aliases=["HyperTile", "hyper tile", "tiled self-attention", "large pictures", "faster"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Int.Input(
                    "tile_size",
                    default=256,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Least side of a tile in pixels of the picture, 8 to a token. Deeper blocks have tiles of "
                    "as many tokens, which cover more of it. 0 changes nothing.",
                ),
                io.Int.Input(
                    "swap",
                    default=2,
                    min=1,
                    max=128,
                    tooltip="Among how many numbers of tiles each step draws, so that the seams move; 1 keeps the "
                    "largest. The draws are the same in every run.",
                ),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with tiled attention.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        tile_size: int | None = None,
        swap: int | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"tile_size": tile_size, "swap": swap, "blocks": blocks, "curve": curve}
        return check(make_tiles, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_tiles(**widgets), HOST))


class KeyValueDownsamplingNode(io.ComfyNode):
    """Attend to a smaller picture in self-attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayKeyValueDownsampling",
            display_name="Key/Value Downsampling",
            category=CATEGORY,
            description="Let every token attend to a smaller picture in self-attention: faster for large pictures "
            "with less loss of detail than merging, as all queries stay.",
            search_aliases=["ToDo", "token downsampling", "kv downsampling", "large pictures", "faster"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Int.Input(
                    "factor",
                    default=2,
                    min=1,
                    max=16,
                    tooltip="How much smaller in height and width: 2 leaves a quarter of the keys; 1 changes nothing.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="nearest",
                    tooltip="nearest: the first token of each cell. mean: the mean of the cell, which flattens the "
                    "attention.",
                ),
                blocks(OUTSIDE_MIDDLE),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with fewer keys and values.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        factor: int | None = None,
        method: str | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"factor": factor, "method": method, "blocks": blocks, "curve": curve}
        return check(make_downsampling, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_downsampling(**widgets), HOST))


def make_merging(
    ratio: float = 0.5,
    destination: str = "random",
    blocks: str = OUTSIDE_MIDDLE,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> TokenMerging:
    """Return the token merging of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return TokenMerging(ratio, destination, parse(blocks), Schedule(start_percent, end_percent, curve))


def make_tiles(
    tile_size: int = 256,
    swap: int = 2,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> TiledAttention:
    """Return the tiled attention of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return TiledAttention(tile_size, swap, parse(blocks), Schedule(start_percent, end_percent, curve))


def make_downsampling(
    factor: int = 2,
    method: str = "nearest",
    blocks: str = OUTSIDE_MIDDLE,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> KeyValueDownsampling:
    """Return the downsampling of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return KeyValueDownsampling(factor, method, parse(blocks), Schedule(start_percent, end_percent, curve))


NODES = [TokenMergingNode, TiledAttentionNode, KeyValueDownsamplingNode]
