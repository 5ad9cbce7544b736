"""The demo model as a node."""

from __future__ import annotations

from ._host import io, load_demo_model


class LoadDemoModel(io.ComfyNode):
    """Load the model that comes with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayLoadDemoModel",
            display_name="Load Demo Model",
            category="loaders",
            description="Load the small text-to-image model that comes with Attention Patchbay: coloured shapes at "
            "128x128 pixels, from captions such as 'a red circle on the left and a blue square on the right'.",
            search_aliases=["demo checkpoint", "example model", "patchbay demo", "test model"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="MODEL", tooltip="The UNet, with attention in input, middle and output blocks."
                ),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder; it knows the words of the captions."),
                io.Vae.Output(display_name="VAE", tooltip="Between 128x128 pixels and 16x16 latents."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Return MODEL, CLIP and VAE."""
        return io.NodeOutput(*load_demo_model())
