"""What nodes have attached to a model: a value that every clone of the model shares and no run changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..addressing.address import BlockId
from ..addressing.schedule import Schedule
from ..patcher import Patcher

KEY = "patchbay"  # in transformer_options: the Plan of a model, and during a run the Run made of it


@dataclass(frozen=True)
class Entry:
    """What one node attached.

    Args:
        name: one line to show.
        slot: its main place on the model, to show.
        targets: the blocks and kinds of attention it is meant for, kind None where the model tells none; no targets
            where it fits any call.
        number: place in the order of the graph and of the text of rules, from 1.
        neutral: its settings change nothing, so it was not put anywhere.
        value: the method or rule itself, to attach it to another model.
        unused: which of its settings can never act on the model, and why; empty where none is known.
    """

    name: str
    slot: str = ""
    targets: tuple[tuple[BlockId, str | None], ...] = ()
    schedule: Schedule = Schedule()
    number: int = 1
    neutral: bool = False
    value: Any = None
    unused: str = ""

    @property
    def nowhere(self) -> bool:
        """Return whether what can never act is all of it."""
        return bool(self.unused) and not self.targets


@dataclass(frozen=True)
class Plan:
    """All entries of a model, in the order in which they were attached: the rules of one text from its end.

    Args:
        blocks: heads and head dim of each transformer block of the model.
        kinds: the kinds of attention that each block calls, in their order, where no patch has to tell them.
    """

    entries: tuple[Entry, ...] = ()
    blocks: Mapping[BlockId, tuple[int, int]] = field(default_factory=dict, compare=False)
    kinds: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, object]) -> Plan:
        """Stay one object in options that are copied through and through."""
        return self


def plan_of(model: Patcher) -> Plan | None:
    """Return what this library attached to a model patcher; None if nothing."""
    plan: Plan | None = model.model_options.get("transformer_options", {}).get(KEY)
    return plan


def entries(model: Patcher) -> tuple[Entry, ...]:
    """Return what this library attached to a model, in order."""
    plan = plan_of(model)
    return () if plan is None else plan.entries
