"""Backend rules as text, as a node."""

from __future__ import annotations

from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.routing.rule import Rule
from ..ldm_patched.patches.routing.rules import RuleError, attach_rules, parse_rules
from ._host import HOST, io, register_host_backends
from .derived import CATEGORY


class BackendRules(io.ComfyNode):
    """Choose the attention function by a list of rules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayBackendRules",
            display_name="Attention Backend Rules",
            category=CATEGORY,
            description="Choose the attention function by an ordered list of rules, the first match first. A call that "
            "no rule takes goes on to the rules of nodes before this one, then to the host's own function.",
            search_aliases=[
                "sage attention",
                "attention rules",
                "attention selector",
                "optimized attention",
                "sage",
                "speed",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.String.Input(
                    "rules",
                    default="* -> auto",
                    multiline=True,
                    tooltip="One rule a line, or parted by ; : blocks, perhaps self or cross (or !self), perhaps a "
                    "part of the run such as 0-50%, then -> and the function. # starts a comment.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with these rules in front.")],
        )

    @classmethod
    def validate_inputs(cls, rules: str | None = None) -> bool | str:
        """Check the text before anything runs; a missing input is the host's to report."""
        try:
            parsed(rules or "")
        except RuleError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model: Patcher, rules: str) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach_rules(model, parsed(rules), HOST))


def parsed(text: str) -> tuple[Rule, ...]:
    """Read rules, which may name what other packs have registered since this one was loaded."""
    register_host_backends()
    return parse_rules(text)
