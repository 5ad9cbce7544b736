"""LoRA by rules: `input:7-8 -> 0.3; output:0 0-50% -> 1.2; * -> 1`, a strength for blocks and a part of the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ..addressing.address import Address, BlockId
from ..addressing.blocks import check_layers, meant_in
from ..addressing.where import Where
from ..engine.declaration import acts, hidden, method
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.layer_forward import LORA, Added, AtLayers
from ..engine.lora import Found, Lora
from ..engine.method import Method
from ..engine.place import Place
from ..patcher import Patcher, TransformerOptions
from .strengths import StrengthRule, Timed, idle_rules, strength_now


@dataclass(frozen=True)
class ByRules:
    """The strength that some rules give a call, times a factor."""

    rules: Timed
    factor: float

    def __call__(self, options: TransformerOptions, x: Tensor, out: Tensor) -> tuple[float, None]:
        return strength_now(self.rules, options) * self.factor, None


@method(title="LoRA by rules")
class LoraRules(Method):
    """Add the branches of a LoRA to the results of the layers, with the strength of the first rule that takes each.

    `strength` times those of the rules is what acts; a layer that no rule takes is left alone. The weights of the model
    stay as they are.
    """

    lora: Lora = hidden()
    rules: tuple[StrengthRule, ...] = hidden((StrengthRule(1.0),))
    strength: float = hidden(1.0)
    where: Where = acts(end=None, curve=False)

    @property
    def slot(self) -> str:
        """Name its place."""
        return LORA

    @property
    def in_layers(self) -> bool:
        """Return that it acts in layers."""
        return True

    @property
    def neutral(self) -> bool:
        """Return whether no rule gives a strength."""
        return self.strength == 0.0 or all(rule.strength == 0.0 for rule in self.rules)

    @property
    def label(self) -> str:
        """Describe it."""
        rules = "1 rule" if len(self.rules) == 1 else f"{len(self.rules)} rules"
        return f"LoRA {self.lora.file.name} by {rules}{self.times}"

    @property
    def name(self) -> str:
        """Describe it in one line; blocks that were taken off are named."""
        return self.label if self.address.everywhere else super().name

    def targets(self, address: Address, model: Patcher) -> tuple[tuple[BlockId, str | None], ...]:
        """Return the blocks whose layers it changes at some time, with any kind of attention.

        Raises AddressError where a rule names a block that the model lacks.
        """
        for rule in self.rules:
            check_layers(rule.where.address, model)
        blocks = dict.fromkeys(one.place.block for one, _ in self._chosen(model) if one.place.block is not None)
        return tuple((block, kind) for block in blocks for kind in (None, "self", "cross"))

    def unused(self, model: Patcher) -> str:
        """Return which rules can never act on this LoRA, and why."""
        meant = [meant_in(rule.where.address, model) for rule in self.rules]
        return "; ".join(idle_rules(self.rules, meant, [one.place for one in self.lora.found]))

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the branches of the layers that a rule gives a strength."""
        note = self.lora.note
        yield AtLayers(
            tuple(
                Added(gate, one.path, one.place.block, one.branch, ByRules(rules, self.strength), note)
                for one, rules in self._chosen(model)
            )
        )

    def _chosen(self, model: Patcher) -> list[tuple[Found, Timed]]:
        """Return the branches that some rule gives a strength, each with the rules that can take it, in order."""
        rules = [(meant_in(rule.where.address, model), rule) for rule in self.rules]
        everywhere = meant_in(self.address, model)
        chosen = []
        for one in self.lora.found:
            mine = [rule for address, rule in rules if one.place.lies_in(address) and one.place.lies_in(everywhere)]
            if any(rule.strength for rule in mine):
                chosen.append((one, tuple((rule.where.schedule, rule.strength) for rule in mine)))
        return chosen
