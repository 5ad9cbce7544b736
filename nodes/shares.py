"""What each word of the prompt got and brought, as a node."""

from __future__ import annotations

from ..ldm_patched.patches.engine.host import Latent
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.word_shares import text, word_shares
from ._host import io
from .derived import CATEGORY


class WordShares(io.ComfyNode):
    """Tell what the words of a prompt did in a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayWordShares",
            display_name="Word Shares",
            category=CATEGORY,
            description="After sampling: what part of the attention each word of the prompt got, and how much of the "
            "results of attention it brought. Words that brought little are grey.",
            search_aliases=[
                "prompt analysis",
                "which words matter",
                "useless words",
                "token importance",
                "prompt words",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The very model that the sampler got, with Capture Attention on it."),
                io.Latent.Input("latent", tooltip="The sampler's result; it makes the table wait for the run."),
            ],
            outputs=[io.String.Output(display_name="table", tooltip="The table as text.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Patcher, latent: Latent) -> io.NodeOutput:
        """Return the table, and show it in the node."""
        rows = word_shares(model, latent["samples"])
        return io.NodeOutput(text(rows), ui={"text": [text(rows)], "words": rows})
