"""The choice of an attention function for some blocks and a part of the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ldm.modules.backends import registry
from ..addressing.where import Where
from ..engine.declaration import Refused, acts, choice, method
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import Place
from ..engine.router import SLOT, Route
from ..patcher import Patcher
from ..record.run import AttentionId

BACKENDS = ("auto", *registry.KNOWN)


@method(
    node="PatchbayAttentionBackend",
    title="Attention Backend (Sage, Flash)",
    text="Choose the attention function for some blocks and a part of the run. Chain several: a later node refines the "
    "earlier ones. A function that this machine lacks falls back to the best one it has.",
    aliases=(
        "sage attention",
        "flash attention",
        "xformers",
        "sdpa",
        "optimized attention",
        "attention selector",
        "sage",
        "speed",
        "low vram",
    ),
    gives="with this rule in front",
)
class Rule(Method):
    """Run `backend` (a name of the registry, or `auto`) in the blocks and the window of `where`.

    A backend that this machine lacks is a valid choice. Raises ValueError for a name that does not exist.
    """

    backend: str = choice(
        BACKENDS,
        "auto",
        by_host=True,
        tip="The attention function. auto takes the best exact one on this machine. The list is the same everywhere, "
        "so a workflow can be shared; what is missing falls back and says so once.",
    )
    where: Where = acts(kinds=("all", "self", "cross"), curve=False)

    def check(self) -> None:
        """Refuse a name that does not exist."""
        known = ("auto", *registry.names())
        if self.backend not in known:
            raise Refused(f"unknown attention function {self.backend!r}; choose one of {', '.join(known)}", "backend")

    @property
    def slot(self) -> str:
        """Return the override."""
        return SLOT

    @property
    def label(self) -> str:
        """Describe the rule."""
        return f"backend {self.backend}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return its place in the override of the model."""
        return [InFront(self, gate)]


@dataclass(frozen=True)
class InFront:
    """A rule in front of those that a model has."""

    rule: Rule
    gate: Gate

    def put(self, clone: Patcher, host: Host) -> None:
        """Make a longer router."""
        options = clone.model_options["transformer_options"]
        options[SLOT] = options[SLOT].with_rule(self.route())

    def route(self) -> Route:
        """Resolve the rule for the model of its entry."""
        address, targets = self.rule.address, self.gate.entry.targets
        if address.everywhere:
            return Route(self.rule.backend, self.gate.entry, None)
        attentions: set[AttentionId] = set(targets)
        if address.kind == "all":
            attentions |= {(block, None) for block, _ in targets}
        return Route(self.rule.backend, self.gate.entry, frozenset(attentions))
