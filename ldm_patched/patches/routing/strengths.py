"""Strengths by rules: `input:7-8 -> 0.3; output:0 0-50% -> 1.2; * -> 1`, for blocks and a part of the run."""

from __future__ import annotations

from dataclasses import dataclass

from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.gate import curve_weight
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
