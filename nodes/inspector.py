"""What is on a model, as a node."""

from __future__ import annotations

import json
from typing import Any

from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.beside import beside
from ..ldm_patched.patches.reading.inspector import findings, makers, rows, text
from ._host import io
from .derived import CATEGORY


class PatchInspector(io.ComfyNode):
    """List every patch of a model, whoever put it there."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayPatchInspector",
            display_name="Patch Inspector",
            category=CATEGORY,
            description="Everything that nodes of any pack have put on a model: slot, block, owner, order and calls, "
            "and why a patch has no effect.",
            search_aliases=["list patches", "model patches", "dead patch", "which node patched", "debug model"],
            inputs=[
                io.Model.Input("model", tooltip="The model to look at, from any loader and any pack."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The result of a sampler that used this very model: the inspector then waits for the run "
                    "and shows its calls. They are counted where a Patchbay node is on the model.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The list as text."),
                io.String.Output(display_name="json", tooltip="The list as JSON, for scripts."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Patcher, latent: Latent | None = None) -> io.NodeOutput:
        """Return the list, and show it in the node."""
        samples = None if latent is None else latent["samples"]
        found = findings(model, samples)
        report, table = text(model, found, samples), rows(found)
        ui: dict[str, list[Any]] = {"text": [report], "table": table, "makers": makers(model, found)}
        ui["beside"] = beside(model, found)
        return io.NodeOutput(report, json.dumps(table), ui=ui)
