"""The NaN sentinel, as a node."""

from __future__ import annotations

from ..ldm_patched.patches.attach import attach_sentinel
from ..ldm_patched.patches.sentinel import MODES, Sentinel
from ..ldm_patched.patches.targets import KINDS, parse
from ._host import io
from ._widgets import CATEGORY, blocks, check


class NaNGuard(io.ComfyNode):
    """Notice and repair results of attention that are not finite."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayNaNGuard",
            display_name="Attention NaN Guard",
            category=CATEGORY,
            description="Notice when an attention function gives NaN or infinity, the usual cause of black pictures, "
            "and compute that call again exactly. The Patch Report says block, step and function.",
            search_aliases=["nan check", "black image fix", "sage attention black", "fp16 overflow"],
            inputs=[
                io.Model.Input("model", tooltip="The model to guard; the input itself stays as it is."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="repair",
                    tooltip="repair: compute such a call again in float32, and that attention from there on. check: "
                    "only report it. off: do nothing.",
                ),
                blocks(),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="all",
                    tooltip="Self-attention (attn1), cross-attention to the text (attn2), or both.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this guard.")],
        )

    @classmethod
    def validate_inputs(cls, mode: str | None = None, blocks: str | None = None, kind: str | None = None) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        return check(make, mode=mode, blocks=blocks, kind=kind)

    @classmethod
    def execute(cls, model: object, mode: str, blocks: str, kind: str) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach_sentinel(model, make(mode, blocks, kind)))


def make(mode: str = "repair", blocks: str = "all", kind: str = "all") -> Sentinel:
    """Return the sentinel of the widgets.

    Raises ValueError naming the value and the fix.
    """
    return Sentinel(mode, parse(blocks).narrowed(kind))


NODES = [NaNGuard]
