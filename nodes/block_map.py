"""Which block is which, as a node."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.addressing.address import AddressError, parse
from ..ldm_patched.patches.addressing.blocks import check_address
from ..ldm_patched.patches.addressing.families import family_of
from ..ldm_patched.patches.engine.attach import attach
from ..ldm_patched.patches.engine.declaration import Placing
from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.methods.block_watch import EVERY, BlockWatch
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.block_map import block_map, chosen, rows, text
from ..ldm_patched.patches.reading.block_values import known_values
from ._host import HOST, io
from .derived import CATEGORY, own_id, own_run, shown

CHANGE = (
    "Measure how far the patches before this node move what each block hands on: norm(with - without) / norm(without) "
    f"on the same input. Each block runs a second time without patches in one of {EVERY} steps, so that sampling takes "
    f"up to {100 // EVERY} % longer. Link the model output to the sampler."
)
MODEL = "The same model; where a sampler gets it, this node shows what the blocks do in its runs."


class BlockMap(io.ComfyNode):
    """Show the blocks of a model, and choose some of them for other nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayBlockMap",
            display_name="Block Map",
            category=CATEGORY,
            description="The blocks of the model drawn in the shape of the model, with heads and token sizes. Click or "
            "drag to choose some; the address goes to every node that is linked to it. Before a run it shows which "
            "blocks the other nodes on the model chose, after one what each block did.",
            search_aliases=["block picker", "layer map", "which block", "unet blocks", "dit layers", "mbw"],
            inputs=[
                io.Model.Input("model", tooltip="The model whose blocks to show."),
                shown(Placing().widgets()[0]),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="A latent of the size to come, to count the tokens; or the result of a sampler that used "
                    "this very model, to colour the blocks by what they did in that run.",
                ),
                io.Boolean.Input("measure_change", default=False, optional=True, tooltip=CHANGE),
            ],
            outputs=[
                io.String.Output(display_name="blocks", tooltip="The address, for the blocks of other nodes."),
                io.String.Output(display_name="map", tooltip="The map as text."),
                io.Model.Output(display_name="model", tooltip=MODEL),
            ],
            **own_run(),
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, blocks: str | None = None) -> bool | str:
        """Check the address before anything runs; a missing input is the host's to report."""
        try:
            parse(blocks if blocks is not None else "all")
        except AddressError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Patcher, blocks: str, latent: Latent | None = None, measure_change: bool = False
    ) -> io.NodeOutput:
        """Return the address, the map and the model that shows its runs here, and show the map in the node."""
        address = parse(blocks)
        check_address(address, model)
        size = None if latent is None else tuple(latent["samples"].shape[-2:])
        found = block_map(model)
        ui: dict[str, list[Any]] = {"map": rows(found, size), "chosen": chosen(address, found)}
        ui["kinds"] = [*family_of(model).kinds]
        ui["values"] = known_values(model, None if latent is None else latent["samples"])
        node = own_id(cls)
        return io.NodeOutput(
            blocks, text(address, found, size), watched(model, BlockWatch(measure_change, node)), ui=ui
        )


def watched(model: Patcher, watch: BlockWatch) -> Patcher:
    """Return the model with its blocks watched, or as it is where nobody can and nothing is to be measured."""
    try:
        return attach(model, watch, HOST)
    except (AddressError, RuntimeError):
        if watch.change:
            raise
        return model
