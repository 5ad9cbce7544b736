"""The cells of a sweep: each is the workflow with one choice of values, and has an id of its own."""

from __future__ import annotations

import copy
import csv
import functools
import hashlib
import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.validate import is_link
from ..engine.workflow import Prompt, find_node, short, value_of
from ..pages.page_graph import passed_by
from ..pages.page_widgets import Infos, inputs_of, takes_text
from .axes import Axis, IsText, never, read_text
from .repeats import ONCE, Choice, Repeats, by_kernel

MOST = 100_000
NUMBERS = ("max", "mean", "psnr", "ssim", "lpips")
COLUMNS = (
    "cell",
    "baseline",
    "reference",
    "repeat",
    "floor",
    "warm_up",
    "seconds",
    "step_seconds",
    "waited_seconds",
    "cost",
    "peak_bytes",
    "peak_of",
    "worker",
    "error",
    "backends",
    "chosen",
    "shown",
)
PICTURES = ("image", "images")


def named(values: Mapping[str, Any]) -> str:
    """Return the values of axes for reading."""
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "the workflow as it is"


@dataclass(frozen=True, eq=False)
class Cell:
    """A workflow to run. Two cells with the same workflow are one: the id is made from it.

    Args:
        baseline: others are compared with this cell.
        reference: the id of the cell that this one is compared with.
        repeat: which of the seeds and prompts it has.
        floor: its reference by another exact attention function: what differs is noise.
        known: the id, where the workflow is not known any more.
    """

    choice: Choice
    prompt: Prompt
    baseline: bool = False
    reference: str = ""
    repeat: int = 0
    floor: bool = False
    known: str = ""

    @functools.cached_property  # a check may convert values of the workflow later
    def id(self) -> str:
        """Return a name that is the same in every run."""
        return self.known or hashlib.sha256(json.dumps(_plain(self.prompt), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def role(self) -> dict[str, Any]:
        """Return what the cell is among the others, as columns of the table."""
        return {name: getattr(self, name) for name in ("baseline", "reference", "repeat", "floor")}


def _plain(value: Any) -> Any:
    """Return a value with whole numbers written in one way: 1.0 is 1."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def choices(axes: Sequence[Axis], together: Sequence[Sequence[str]] = ()) -> list[Choice]:
    """Return every combination of the values; axes named `together` move in step.

    Raises Failure naming the axis and the fix.
    """
    by_name = {axis.name: axis for axis in axes}
    if len(by_name) != len(axes):
        raise Failure("an axis is given twice; put all of its values into one")
    groups: list[list[Axis]] = [[by_name[_known(name, by_name)] for name in names] for names in together]
    used = {axis.name for group in groups for axis in group}
    groups += [[axis] for axis in axes if axis.name not in used]
    rows = []
    for group in groups:
        if len({len(axis.values) for axis in group}) != 1:
            lengths = ", ".join(f"{axis.name} {len(axis.values)}" for axis in group)
            raise Failure(f"--zip: axes that move together need as many values each, not {lengths}")
        rows.append([dict(zip((axis.name for axis in group), row, strict=True)) for row in _rows(group)])
    count = 1
    for row in rows:
        count *= len(row)
    if count > MOST:
        raise Failure(f"{count} cells are too many (at most {MOST}); take fewer values, or --random N")
    return [dict(pair for part in parts for pair in part.items()) for parts in itertools.product(*rows)]


def _rows(group: Sequence[Axis]) -> Iterable[tuple[Any, ...]]:
    return zip(*(axis.values for axis in group), strict=True)


def _known(name: str, axes: Mapping[str, Axis]) -> str:
    if name not in axes:
        raise Failure(f"--zip {name}: no such axis; there are {', '.join(axes)}")
    return name


def some(all: list[Choice], count: int, seed: int) -> list[Choice]:
    """Return a random part of the choices, in their order."""
    if count >= len(all):
        return all
    places = sorted(random.Random(seed).sample(range(len(all)), count))
    return [all[place] for place in places]


def listed(path: Path, is_text: IsText = never) -> list[Choice]:
    """Read choices from a CSV file whose columns are named as axes.

    Raises Failure.
    """
    try:
        names, *rows = [row for row in csv.reader(io.StringIO(read_text(path), newline=""), strict=True) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise Failure(f"--list {path} cannot be read: {error}") from None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Failure(f"--list {path}: the column {short(twice[0])!r} stands there twice; keep one of them")
    if not rows or "" in names or any(len(row) != len(names) for row in rows):
        raise Failure(f"--list {path}: write a line with NODE.input names, then a line of values for each cell")
    texts = {name: is_text(*name.rpartition(".")[::2]) for name in names}
    return [
        {name: text if texts[name] else value_of(text) for name, text in zip(names, row, strict=True)} for row in rows
    ]


def cells(
    prompt: Prompt,
    all: Iterable[Choice],
    infos: Infos,
    baseline: Choice,
    again: Repeats = ONCE,
    floor: str = "",
) -> list[Cell]:
    """Return the cells of the choices for each repeat, those to compare with first and no workflow twice.

    A baseline that sets an axis is there for every combination of the others; else it is one cell.
    Raises Failure naming the axis and the fix.

    Args:
        floor: the exact attention function that computes each baseline once more; empty for none.
    """
    all = list(all)
    axes = {name for choice in all for name in choice}
    for name in axes & {*COLUMNS, *PICTURES, *NUMBERS}:
        raise Failure(f"{name!r} is a column of the table; write the id of the node")
    _check_apart(prompt, {*axes, *baseline}, again)
    found: dict[str, Cell] = {}
    own = [_present({**choice, **baseline}) for choice in all] if axes & set(baseline) else [baseline]
    for number, values in enumerate(again.values):
        references = []
        for choice in own:
            first = Cell(choice | values, applied(prompt, choice | values, infos), True, repeat=number)
            references.append(_added(found, first))
            if floor:
                noisy = by_kernel(first.prompt, floor, infos)
                _added(found, Cell(first.choice, noisy, False, references[-1], number, True))
        references *= len(all) // len(references)
        for choice, reference in zip(all, references, strict=True):
            kept = choice | values
            _added(found, Cell(kept, applied(prompt, kept, infos), False, reference, number))
    return [replace(cell, reference=cell.reference or cell.id) for cell in found.values()]


def _present(choice: Choice) -> Choice:
    """Return a choice without the inputs of nodes that it takes out."""
    gone = {name for name, value in choice.items() if value == "bypass"}
    return {name: value for name, value in choice.items() if name.rpartition(".")[0] not in gone}


def _check_apart(prompt: Prompt, axes: set[str], again: Repeats) -> None:
    """Raise Failure where an axis or a baseline sets what the repeats set."""
    for name in axes:
        node, _, input = name.rpartition(".")
        if node and f"{_find(prompt, node, name)}.{input}" in again.names:
            raise Failure(f"{short(name)} is set by --repeat or --prompts; leave it out of the axes and the baseline")


def _added(found: dict[str, Cell], cell: Cell) -> str:
    """Add a cell and return its id; a reference that is one of the choices too stands at that choice's values."""
    known = found.get(cell.id)
    if known is None:
        found[cell.id] = cell
    elif not cell.baseline and not cell.floor:
        reference = cell.id if known.baseline else known.reference
        found[cell.id] = replace(known, choice={**cell.choice, **known.choice}, reference=reference)
    return cell.id


def applied(prompt: Prompt, choice: Choice, infos: Infos) -> Prompt:
    """Return the workflow with the values of a choice."""
    changed = copy.deepcopy(prompt)
    bypassed = []
    for name, value in choice.items():
        node, _, input = name.rpartition(".")
        id = _find(changed, node or input, name)
        if not node:
            bypassed += [id] if value == "bypass" else []
        elif input not in (known := dict(inputs_of(_info(infos, changed[id])))):
            what = f"{changed[id].get('class_type')} has no input {short(input)!r}; it has {', '.join(known)}"
            raise Failure(f"{short(name)}: {what}")
        else:
            changed[id]["inputs"][input] = value
    for id in bypassed:
        _bypass(changed, id, infos)
    return changed


def texts_of(prompt: Prompt, infos: Infos) -> IsText:
    """Return what tells whether an input of a node takes text."""

    def is_text(node: str, input: str) -> bool:
        try:
            info = _info(infos, prompt[find_node(prompt, node)])
        except ValueError:
            return False  # what comes next says so
        return takes_text(info, input)

    return is_text


def _info(infos: Infos, node: Mapping[str, Any]) -> Mapping[str, Any]:
    return infos.get(str(node.get("class_type")), {})


def _find(prompt: Prompt, node: str, name: str) -> str:
    try:
        return find_node(prompt, node)
    except ValueError as error:
        raise Failure(f"{short(name)}: {error}") from None


def _bypass(prompt: Prompt, id: str, infos: Infos) -> None:
    """Take a node out, as the page does with a bypassed one: those behind it get its inputs of the same types."""
    info, inputs = _info(infos, prompt[id]), prompt.pop(id)["inputs"]
    names, types = [name for name, _ in inputs_of(info)], [entry[0] for _, entry in inputs_of(info)]
    passed = {}
    for slot, type in enumerate(info.get("output", [])):
        place = passed_by(types, slot, type, type)
        passed[slot] = None if place is None else inputs.get(names[place])
    for node in prompt.values():
        for name, value in list(node["inputs"].items()):
            if is_link(value) and value[0] == id:
                if is_link(passed.get(value[1])):
                    node["inputs"][name] = passed[value[1]]
                else:
                    del node["inputs"][name]
