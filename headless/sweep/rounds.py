"""The order in which the cells of a sweep run: in rounds, so that other work beside it meets all settings alike."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ..engine.workflow import Prompt, find_node
from ..pages.convert import depths_of
from .cells import Cell


def in_running_order(prompt: Prompt, all: Sequence[Cell]) -> list[Cell]:
    """Return the cells, a round for each repeat: every setting once, then every one again.

    In a round what is early in the workflow changes least: models load once. Every other round runs backwards, so that
    what a machine gains or loses all the while is no setting's.
    """
    depths = depths_of(prompt)
    given = dict.fromkeys(name for cell in all for name in cell.choice)
    names = sorted(given, key=lambda name: depths.get(_node(prompt, name), 0))  # else as they were written
    places: dict[str, dict[str, int]] = {name: {} for name in names}

    def key(cell: Cell) -> tuple[Any, ...]:
        values = [(places[name], repr(cell.choice.get(name))) for name in names]
        return cell.repeat, *(known.setdefault(value, len(known)) for known, value in values)

    rounds = [list(some) for _, some in itertools.groupby(sorted(all, key=key), lambda cell: cell.repeat)]
    return [cell for number, some in enumerate(rounds) for cell in (some[::-1] if number % 2 else some)]


def _node(prompt: Prompt, name: str) -> str:
    node, _, input = name.rpartition(".")
    return find_node(prompt, node or input)
