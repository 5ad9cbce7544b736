"""Backend rules as text: `input:4-8 self 0-50% -> sage; output !self -> pytorch; * -> auto`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...ldm.modules.backends import registry
from ..addressing.address import AddressError, parse
from ..addressing.refused import readable
from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.attach import attach
from ..engine.host import Host
from ..patcher import Patcher
from ..record.plan import entries
from .rule import Rule

T = TypeVar("T")
_PART = re.compile(r"[^;\n]+")
_WINDOW = re.compile(r"(?<![\w:.-])(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)%(?![^\s,])")


class RuleError(ValueError):
    """A rule that cannot be read; the text points at the column."""


@dataclass(frozen=True)
class Grammar(Generic[T]):
    """What stands behind the arrow of a rule: in words, an example, what there is to choose, and how it is read."""

    right: str
    example: str
    choices: Callable[[], str]
    made: Callable[[str, Where], T]


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Read rules, the first match first: an address, perhaps a window in percent, `->` and a backend.

    They are separated by `;` or lines; what follows `#` in a line is a comment. No rule at all is no error.

    Raises RuleError with the line, the column and the ways to write it.
    """
    return read_rules(text, BACKEND)


def read_rules(text: str, grammar: Grammar[T]) -> tuple[T, ...]:
    """Read rules as `parse_rules` does, with something else behind the arrow."""
    rules: list[T] = []
    for number, line in enumerate(readable(text, "rules").splitlines(), 1):
        code = line.partition("#")[0]
        rules += [_rule(number, line, match, grammar) for match in _PART.finditer(code) if match.group().strip()]
    return tuple(rules)


def rules_text(rules: Iterable[Rule]) -> str:
    """Return rules as text, one a line."""
    return "\n".join(f"{rule.address}{window_text(rule.schedule)} -> {rule.backend}" for rule in rules)


def attach_rules(model: Patcher, rules: Sequence[Rule], host: Host | None = None) -> Patcher:
    """Return a clone of a model patcher with rules in front of those it has; the first of them is asked first.

    Raises AddressError when an address does not fit the model.
    """
    model = model.clone()
    first = len(entries(model)) + 1
    for number, rule in reversed(list(enumerate(rules, first))):
        model = attach(model, rule, host, number)
    return model


def window_text(schedule: Schedule) -> str:
    """Return a window as rules write it, behind a space; empty for the whole run."""
    window = f" {100 * schedule.start_percent:.10g}-{100 * schedule.end_percent:.10g}%"
    return "" if schedule.always else window


def _rule(number: int, line: str, match: re.Match[str], grammar: Grammar[T]) -> T:
    part, column = match.group(), match.start()
    left, arrow, right = part.partition("->")
    if not arrow:
        missing = f"'->' and {grammar.right} are missing; write {grammar.example}"
        raise _error(number, line, column + len(part.rstrip()), missing)
    given = right.strip().lower()
    after = column + len(left) + len(arrow) + len(right) - len(right.lstrip())
    if not given:
        raise _error(number, line, after, f"no {grammar.right.partition(' ')[2]} after '->'; {grammar.choices()}")
    windows = list(_WINDOW.finditer(left))
    if len(windows) > 1:
        raise _error(number, line, column + windows[1].start(), "a rule has one window; keep one of them")
    where = _WINDOW.sub(lambda found: " " * len(found.group()), left)
    try:
        schedule = _schedule(windows)
    except ValueError as error:
        raise _error(number, line, column + windows[0].start(), f"{error} (the window is in percent)") from None
    try:
        address = parse(where)
    except AddressError as error:
        raise _error(number, line, column + error.column, error.reason) from None
    try:
        return grammar.made(given, Where(address, schedule))
    except ValueError as error:
        raise _error(number, line, after, str(error)) from None


def _schedule(windows: list[re.Match[str]]) -> Schedule:
    if not windows:
        return Schedule()
    start, end = (round(float(percent) / 100, 10) for percent in windows[0].groups())
    return Schedule(start, end)


def _error(number: int, line: str, column: int, reason: str) -> RuleError:
    shown = re.sub(r"\s", " ", line)
    return RuleError(f"rules, line {number}, column {column + 1}: {reason}\n  {shown}\n  {' ' * column}^")


BACKEND = Grammar("a backend", "* -> auto", lambda: f"choose one of {', '.join(('auto', *registry.names()))}", Rule)
