"""What ran, as a node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.report import report
from ._host import HOST, io
from .derived import CATEGORY


class PatchReport(io.ComfyNode):
    """Report the run that gave a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayPatchReport",
            display_name="Patch Report",
            category=CATEGORY,
            description="After sampling: which attention function ran in each block and how often, what every patch "
            "did, and which patches never ran.",
            search_aliases=["attention report", "proof of effect", "patch inspector", "which attention ran"],
            inputs=[
                io.Model.Input("model", tooltip="The very model that the sampler got."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes the report wait for the run."),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="The report as text.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Patcher, latent: Latent) -> io.NodeOutput:
        """Return the report, and show it in the node."""
        found = report(model, latent["samples"], HOST)
        able = [asdict(HOST.able())]
        ui: dict[str, list[Any]] = {"text": [found.text], "table": found.table, "steps": found.steps, "host": able}
        ui |= {"fates": list(found.fates), "head": list(found.head)}
        return io.NodeOutput(found.text, ui=ui)
