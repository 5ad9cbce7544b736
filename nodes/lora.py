"""LoRA files without patched weights, as nodes."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from ..ldm_patched.patches.addressing.where import Where
from ..ldm_patched.patches.engine.attach import attach
from ..ldm_patched.patches.engine.lora import LoraFile, lora_on
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.routing.lora_rules import LoraRules, parse_lora_rules
from ..ldm_patched.patches.routing.rules import RuleError
from ._host import HOST, clip_with_lora, io, lora_files, read_lora
from .derived import CATEGORY, model, patched

NONE = "none"


def lora_name() -> Any:
    """Return the input for a LoRA file; a node that was just made has none."""
    names = [NONE, *lora_files()]
    return io.Combo.Input("lora_name", options=names, default=NONE, tooltip="A file in models/loras; none: no LoRA.")


class LoadLoraByRules(io.ComfyNode):
    """Load a LoRA with a strength for each block and part of the run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayLoraRules",
            display_name="Load LoRA by Rules",
            category=CATEGORY,
            description="Load a LoRA with a strength for each block and part of the run, by an ordered list of rules. "
            "The weights of the model stay as they are, so the strength may change in each step.",
            search_aliases=["lora block weight", "lora schedule", "load lora", "lbw", "lora strength by step"],
            inputs=[
                model(),
                lora_name(),
                io.String.Input(
                    "rules",
                    default="* -> 1",
                    multiline=True,
                    tooltip="One rule a line, or parted by ; : blocks, perhaps self or cross, perhaps a part of the "
                    "run such as 0-50%, then -> and the strength. The first that matches holds. # starts a comment.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="The one strength of what the file holds for the text encoder.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder; the input itself stays as it is."),
            ],
            outputs=[
                patched("with the LoRA beside its weights"),
                io.Clip.Output(display_name="CLIP", tooltip="A clone of the text encoder with the LoRA in it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, rules: str | None = None) -> bool | str:
        """Check the text before anything runs; a missing input is the host's to report."""
        try:
            parse_lora_rules(rules or "")
        except RuleError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Patcher, lora_name: str, rules: str, strength_clip: float, clip: Any = None
    ) -> io.NodeOutput:
        """Return the clones."""
        if lora_name == NONE:
            return io.NodeOutput(model.clone(), clip)
        entries = read_lora(lora_name)
        lora = lora_on(model, LoraFile.of(PurePath(lora_name).stem, entries), HOST.weights(model))
        clone = attach(model, LoraRules(lora, parse_lora_rules(rules), Where()), HOST)
        return io.NodeOutput(clone, clip and clip_with_lora(clip, entries, strength_clip))
