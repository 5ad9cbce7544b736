"""Which attention function runs, as a node."""

from __future__ import annotations

from ..ldm_patched.patches.attach import attach_rule
from ..ldm_patched.patches.router import BACKENDS, Rule
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import KINDS, parse
from ._host import io
from ._widgets import CATEGORY, blocks, check, window


class AttentionBackend(io.ComfyNode):
    """Choose the attention function for some blocks and a part of the run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayAttentionBackend",
            display_name="Attention Backend",
            category=CATEGORY,
            description="Choose the attention function for some blocks and a part of the run. Chain several: a later "
            "node refines the earlier ones. A function that this machine lacks falls back to the best one it has.",
            search_aliases=[
                "sage attention",
                "flash attention",
                "xformers",
                "sdpa",
                "optimized attention",
                "attention selector",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.Combo.Input(
                    "backend",
                    options=list(BACKENDS),
                    default="auto",
                    tooltip="The attention function. auto takes the best exact one on this machine. The list is the "
                    "same everywhere, so a workflow can be shared; what is missing falls back and says so once.",
                ),
                blocks(),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="all",
                    tooltip="Self-attention (attn1), cross-attention to the text (attn2), or both.",
                ),
                *window(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this rule in front.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        blocks: str | None = None,
        kind: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
    ) -> bool | str:
        """Check address and window before anything runs; a missing input is the host's to report."""
        return check(make, blocks=blocks, kind=kind, start_percent=start_percent, end_percent=end_percent)

    @classmethod
    def execute(
        cls, model: object, backend: str, blocks: str, kind: str, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach_rule(model, make(backend, blocks, kind, start_percent, end_percent)))


def make(
    backend: str = "auto", blocks: str = "all", kind: str = "all", start_percent: float = 0.0, end_percent: float = 1.0
) -> Rule:
    """Return the rule of the widgets.

    Raises ValueError naming the value and the fix.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    return Rule(backend, parse(blocks).narrowed(kind), Schedule(start_percent, end_percent))


NODES = [AttentionBackend]
