"""Strengths by rules: `input:7-8 -> 0.3; output:0 0-50% -> 1.2; * -> 1`, for blocks and a part of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..addressing.address import Address
from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.gate import curve_weight
from ..engine.lora import Place
from ..patcher import TransformerOptions
from .rules import Grammar, read_rules

Timed = tuple[tuple[Schedule, float], ...]  # the rules that can take one place, in order: when, and how strong

LARGEST = 100  # as Load LoRA has it


@dataclass(frozen=True)
class StrengthRule:
    """A strength, and where it holds."""

    strength: float
    where: Where = Where()


def strength_now(rules: Timed, options: TransformerOptions) -> float:
    """Return the strength of the first rule whose window a call lies in; 0 where none does."""
    return next((strength for schedule, strength in rules if curve_weight(schedule, options)), 0.0)


def idle_rules(rules: Sequence[StrengthRule], meant: Sequence[Address], places: Sequence[Place]) -> Iterator[str]:
    """Yield for each rule that has no layer of its own at any time what it is and why, by the places of the layers.

    `meant` are the addresses of the rules as the model has them.
    """
    for number, rule in enumerate(rules):
        mine = [place for place in places if place.lies_in(meant[number])]
        before = [[i for i in range(number) if place.lies_in(meant[i])] for place in mine]
        if not mine:
            yield f"rule {number + 1} ({rule.where}) takes no layer of this LoRA"
        elif all(_covered(rule, [rules[i] for i in some]) for some in before):
            earlier = ", ".join(str(i + 1) for i in sorted(set().union(*before)))
            yield f"rule {number + 1} ({rule.where}) comes after rules that take all its layers ({earlier})"


def _covered(rule: StrengthRule, others: Sequence[StrengthRule]) -> bool:
    """Return whether the windows of others leave nothing of a rule's; one that is empty was left nothing by nobody."""
    window = rule.where.schedule
    start = window.start_percent
    for other in sorted((other.where.schedule for other in others), key=lambda one: one.start_percent):
        if other.start_percent <= start < other.end_percent:
            start = other.end_percent
    return window.start_percent < window.end_percent <= start


def parse_strengths(text: str) -> tuple[StrengthRule, ...]:
    """Read rules, the first match first: an address, perhaps a window in percent, `->` and a strength.

    Raises RuleError with the line, the column and the ways to write it.
    """
    return read_rules(text, STRENGTH)


def _rule(given: str, where: Where) -> StrengthRule:
    try:
        strength = float(given)
    except ValueError:
        raise ValueError(f"cannot read the strength {given!r}; write a number such as 0.8") from None
    if not abs(strength) <= LARGEST:
        raise ValueError(f"the strength is {given}; give a number from -{LARGEST} to {LARGEST}")
    return StrengthRule(strength, where)


STRENGTH = Grammar("a strength", "* -> 1", lambda: "write a number such as 0.8", _rule)
