"""What ran, as a node."""

from __future__ import annotations

from ..ldm_patched.patches.attach import recorder_of
from ..ldm_patched.patches.report import steps, table, text
from ._host import io
from ._widgets import CATEGORY


class PatchReport(io.ComfyNode):
    """Report the last sampling run of a model."""

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
    def execute(cls, model: object, latent: object) -> io.NodeOutput:
        """Return the report, and show it in the node."""
        recorder = recorder_of(model)
        report = text(recorder)
        return io.NodeOutput(report, ui={"text": [report], "table": table(recorder), "steps": steps(recorder)})


NODES = [PatchReport]
