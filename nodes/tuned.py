"""The choice of attention functions that a file keeps, as a node."""

from __future__ import annotations

from ..ldm_patched.demo import LORAS
from ..ldm_patched.patches.addressing.address import AddressError
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.routing.kept_choices import OTHER, kept_rules
from ..ldm_patched.patches.routing.rules import attach_rules, rules_text
from ._host import HOST, io, lora_files, lora_path, register_host_backends
from .derived import CATEGORY, model

NONE = "none"


class TunedAttention(io.ComfyNode):
    """Put the rules that a file keeps on a model."""

    reads = {"tuned_file": "loras"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        names = [NONE, *(name for name in lora_files() if name not in LORAS)]
        return io.Schema(
            node_id="PatchbayTunedAttention",
            display_name="Tuned Attention",
            category=CATEGORY,
            description="Put the attention functions on the model that Tune Attention or patchbay tune kept in a file. "
            "Nothing is measured.",
            search_aliases=["tune attention", "load attention rules", "fastest attention", "speed", "sage"],
            inputs=[
                model(),
                io.Combo.Input(
                    "tuned_file",
                    options=names,
                    default=NONE,
                    tooltip="A file in models/loras, or in the output folder under loras; none: no rules. A LoRA with "
                    "weights keeps no rules and is refused.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="A clone of the model with the rules in front."),
                io.String.Output(display_name="rules", tooltip="The rules as text, for Attention Backend Rules."),
            ],
        )

    @classmethod
    def execute(cls, model: Patcher, tuned_file: str) -> io.NodeOutput:
        """Return the clone and its rules."""
        if tuned_file == NONE:
            return io.NodeOutput(model.clone(), "")
        register_host_backends()
        rules = kept_rules(lora_path(tuned_file))
        try:
            return io.NodeOutput(attach_rules(model, rules, HOST), rules_text(rules))
        except AddressError as error:
            raise ValueError(OTHER.format(tuned_file, error.reason)) from None
