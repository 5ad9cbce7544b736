"""Rules for the fastest attention functions, from what tuning measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...ldm.modules.backends import registry
from ...ldm.modules.backends.registry import AttentionCall
from ..addressing.address import Address, BlockId, Term
from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..record.run import AttentionId
from .recorded import StepErrors
from .rule import Rule
from .tuning import Tuned

Calls = Mapping[AttentionId, AttentionCall]
Choice = tuple[str, Schedule]
MARGIN = 0.05  # of the time of `auto`; less is not told from noise


def write_rules(
    calls: Calls, tuned: Iterable[Tuned], bound: float, margin: float = MARGIN, recorded: StepErrors | None = None
) -> tuple[Rule, ...]:
    """Return a rule for each function that beats `auto` by more than `margin` somewhere within the error bound.

    `calls` says which call each attention makes. With `recorded` a function has to keep the bound on the tensors of the
    model too, and gets the part of the run where it does. What no rule takes stays with `auto`.
    """
    chosen: dict[Choice, list[AttentionId]] = {}
    found = {one.call: one for one in tuned}
    for attention, call in calls.items():
        for choice in _choices(found[call], bound, margin, _windows(attention, recorded)):
            chosen.setdefault(choice, []).append(attention)
    rules = [rule for choice, attentions in chosen.items() for rule in _rules(*choice, attentions, calls)]
    return (*rules, Rule("auto", Where()))


def attention_seconds(
    counts: Mapping[AttentionId, int],
    calls: Calls,
    tuned: Iterable[Tuned],
    bound: float,
    recorded: StepErrors | None = None,
) -> tuple[float, float]:
    """Return the seconds of so many calls of each attention, by `auto` and by the rules that `write_rules` gives.

    They are the sums of what was measured for each call; a part of the run counts by its length.
    """
    found = {one.call: one for one in tuned}
    automatic = chosen = 0.0
    for attention, count in counts.items():
        one = found[calls[attention]]
        each = _automatic(one)
        automatic += count * each
        chosen += count * each
        for backend, schedule in _choices(one, bound, MARGIN, _windows(attention, recorded)):
            saved = each - next(timing.seconds for timing in one.timings if timing.backend == backend)
            chosen -= count * saved * (schedule.end_percent - schedule.start_percent)
    return automatic, chosen


def gain_text(automatic: float, chosen: float) -> str:
    """Return what rules save of the attention in a step, for reading; empty where it is not known."""
    if not 0.0 < automatic < float("inf"):
        return ""
    return f"attention in a step: {1e3 * automatic:.3g} ms by auto, {1e3 * chosen:.3g} by these rules"


def _windows(attention: AttentionId, recorded: StepErrors | None) -> list[tuple[Schedule, Mapping[str, float]]]:
    return [(Schedule(), {})] if recorded is None else list(recorded.windows(attention))


def _choices(
    tuned: Tuned, bound: float, margin: float, windows: Sequence[tuple[Schedule, Mapping[str, float]]]
) -> list[Choice]:
    """Return which functions beat `auto` in a call, each with the part of the run in which it keeps the bound."""
    parts: list[Choice] = []
    for schedule, errors in windows:
        exact = [one for one in tuned.timings if max(one.error, errors.get(one.backend, 0.0)) <= bound]
        wins = bool(exact) and exact[0].seconds < (1 - margin) * _automatic(tuned)
        backend = exact[0].backend if wins else "auto"
        if parts and parts[-1][0] == backend:
            schedule = Schedule(parts.pop()[1].start_percent, schedule.end_percent)
        parts.append((backend, schedule))
    return [(backend, schedule) for backend, schedule in parts if backend != "auto"]


def _automatic(tuned: Tuned) -> float:
    """Return the seconds of the function that `auto` takes for a call."""
    name = registry.select(tuned.call).backend.name
    return next((timing.seconds for timing in tuned.timings if timing.backend == name), float("inf"))


def _rules(backend: str, schedule: Schedule, attentions: Sequence[AttentionId], calls: Calls) -> list[Rule]:
    if any(block is None for block, _ in attentions):  # a model that does not say which block calls
        return [Rule(backend, Where(Address(), schedule))] if set(attentions) == set(calls) else []
    rules = []
    for kind in ("self", "cross", None):
        blocks = [block for block, current in attentions if current == kind and block is not None]
        if blocks:
            rules.append(Rule(backend, Where(Address(tuple(map(_term, blocks)), kind or "all"), schedule)))
    return rules


def _term(block: BlockId) -> Term:
    return Term(block.type, block.number, block.number, block.inner)
