"""Axes of a sweep: `12.backend=auto,pytorch`, `3.seed=1..4`, `9.strength=0:1:0.25`, `15=on,bypass`, `2.text=@file`,
`7.blocks=each(output)`."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.workflow import MAX_BYTES, decoded, short, value_of

MOST = 10_000  # values of an axis
SWITCH = ("on", "bypass")
IsText = Callable[[str, str], bool]  # of a node, by its id, class or title, and an input
Each = Callable[[str, str], tuple[str, ...]]  # of a node and an address: the blocks it names, one by one


def never(node: str, input: str) -> bool:
    """Return that no input takes text: what an axis holds is written as JSON."""
    return False


@dataclass(frozen=True)
class Axis:
    """An input of a node, or a node itself (`input` is empty), and the values to try."""

    node: str
    input: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Return what the axis is called in tables."""
        return f"{self.node}.{self.input}" if self.input else self.node


def none(node: str, address: str) -> tuple[str, ...]:
    """Raise Failure: here no model is known."""
    raise Failure(f"each({short(address)}): here stands one value, not every block")


def parse_axis(text: str, is_text: IsText = never, each: Each = none) -> Axis:
    """Read an axis.

    Commas separate values (quote one that holds a comma, as in CSV); `1..4` are whole numbers, `0:1:0.25` numbers
    from, to and by, both ends included; `@file` has one value in a line; `each(output)` is every block of
    an address.

    Args:
        is_text: whether an input of a node takes text, so that its values stay as they are written.

    Raises Failure naming the axis and the fix.
    """
    target, equals, values = text.partition("=")
    node, _, input = target.strip().rpartition(".")
    if not equals or not values.strip() or not (node or input):
        raise _wrong(text, "write NODE.input=values or NODE=on,bypass")
    if not node:
        node, input = input, ""
    blocks = re.fullmatch(r"each\((.*)\)", values.strip())
    if blocks and input:
        found: tuple[Any, ...] = each(node, blocks[1])
    else:
        found = _texts(text, values.strip()) if input and is_text(node, input) else _values(text, values.strip())
    if not input and not set(found) <= set(SWITCH):
        raise _wrong(text, "a node has the values on and bypass; for an input write NODE.input=values")
    if len(set(map(repr, found))) != len(found):
        raise _wrong(text, "a value stands there twice")
    return Axis(node, input, found)


def _values(axis: str, text: str) -> tuple[Any, ...]:
    whole = re.fullmatch(r"(-?\d{1,20})\.\.(-?\d{1,20})", text)
    if whole:
        low, high = int(whole[1]), int(whole[2])
        if not 0 <= high - low < MOST:
            raise _wrong(axis, f"it has {high - low + 1} values; write a range that rises, of at most {MOST}")
        return tuple(range(low, high + 1))
    number = r"(-?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:e-?\d{1,2})?)"
    steps = re.fullmatch(f"{number}:{number}:{number}", text, re.IGNORECASE)
    if steps:
        return _steps(axis, *map(Decimal, steps.groups()))
    return tuple(map(value_of, _texts(axis, text)))


def _texts(axis: str, text: str) -> tuple[str, ...]:
    """Return values as they are written."""
    if text.startswith("@"):
        return lines(f"--axis {short(axis)}", Path(text[1:]))
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise _wrong(axis, f"its values cannot be read: {error}") from None
    return tuple(row)


def _steps(axis: str, low: Decimal, high: Decimal, step: Decimal) -> tuple[float, ...]:
    if step <= 0 or high < low or (high - low) / step >= MOST:
        raise _wrong(axis, f"write from:to:by with a step above 0 and at most {MOST} values")
    return tuple(float(low + step * number) for number in range(math.floor((high - low) / step) + 1))


def lines(option: str, path: Path) -> tuple[str, ...]:
    """Return the values in a file, one in a line.

    Raises Failure that begins with the option they are for.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise Failure(f"{option}: {path} cannot be read: {error}") from None
    found = tuple(line for line in text.split("\n") if line.strip())
    if not found:
        raise Failure(f"{option}: {path} has no values; write one in a line")
    if len(found) > MOST:
        raise Failure(f"{option}: {path} has {len(found)} values; at most {MOST}")
    return found


def read_text(path: Path) -> str:
    """Return the text of a file with plain ends of lines, without the marks that Windows writes at its start.

    Files put one behind the other have such a mark in the middle too. Raises OSError and ValueError.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    return re.sub(r"\r\n?", "\n", decoded(data)).replace("\n\ufeff", "\n")


def _wrong(axis: str, how: str) -> Failure:
    return Failure(f"--axis {short(axis)}: {how}")
