"""`patchbay diff`: what differs between two workflows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.validate import is_link
from ..engine.workflow import Prompt, title
from ..pages.kept_values import PLACE
from ..pages.workflow_file import STDIN, WORKFLOW, embedded_infos, load


def add_diff(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay diff`."""
    command.add_argument("first", type=Path, help=WORKFLOW)
    command.add_argument("second", type=Path, help=WORKFLOW)
    command.add_argument("--json", action="store_true", help="print the differences as JSON")
    command.set_defaults(run=diff)


def diff(args: argparse.Namespace) -> int:
    """Run `patchbay diff`; the exit code is 1 where they differ."""
    if args.first == args.second == STDIN:
        raise Failure("only one of the two workflows can come from standard input")
    first, second = (load(path, embedded_infos, unknown=True) for path in (args.first, args.second))
    found = differences(first, second)
    print(json.dumps(found, indent=1) if args.json else "\n".join(map(_line, found)) or "no difference")
    return int(bool(found))


def differences(first: Prompt, second: Prompt) -> list[dict[str, Any]]:
    """Return the nodes that are only in one workflow, and the inputs that differ, links by what they lead to."""
    pairs = matched(first, second)
    back = {two: one for one, two in pairs.items()}
    found: list[dict[str, Any]] = []
    found += [{"what": "removed", "node": title(first, id)} for id in first if id not in pairs]
    found += [{"what": "added", "node": title(second, id)} for id in second if id not in back]
    for one, two in pairs.items():
        kept, others = first[one]["inputs"], second[two]["inputs"]
        before, after = _named(kept, others), _named(others, kept)
        for name in dict.fromkeys([*before, *after]):
            old: Any = before.get(name)
            new: Any = after.get(name)
            if is_link(old) and is_link(new) and [pairs.get(old[0]), old[1]] == new:
                continue
            if old != new or (is_link(old) and is_link(new)):
                values = {"before": _value(first, old), "after": _value(second, new)}
                found.append({"what": "changed", "node": title(second, two), "input": name, **values})
    return found


def matched(first: Prompt, second: Prompt) -> dict[str, str]:
    """Pair the nodes: by id and class, then by class and title, then by class, in order."""
    pairs: dict[str, str] = {}
    keys: list[Callable[[Prompt, str], Any]] = [
        lambda prompt, id: (id, prompt[id].get("class_type")),
        lambda prompt, id: (prompt[id].get("class_type"), title(prompt, id).partition(" ")[2].partition(" ")[2]),
        lambda prompt, id: prompt[id].get("class_type"),
    ]
    for key in keys:
        free: dict[Any, list[str]] = {}
        taken = set(pairs.values())
        for id in second:
            if id not in taken:
                free.setdefault(repr(key(second, id)), []).append(id)
        for id in first:
            rest = free.get(repr(key(first, id)), []) if id not in pairs else []
            if rest:
                pairs[id] = rest.pop(0)
    return {id: pairs[id] for id in first if id in pairs}


def _named(inputs: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return inputs with values that have only a place under the names that the other workflow has for them."""
    places = [name for name in inputs if name.startswith(PLACE)]
    names = [name for name, value in other.items() if name not in inputs and not is_link(value)]
    new = dict(zip(places, names, strict=True)) if len(places) == len(names) else {}
    return {new.get(name, name): value for name, value in inputs.items()}


def _value(prompt: Prompt, value: Any) -> Any:
    if is_link(value):
        return f"{title(prompt, value[0]) if value[0] in prompt else value[0]}, output {value[1]}"
    return value


def _line(entry: Mapping[str, Any]) -> str:
    if entry["what"] != "changed":
        return f"{entry['what']} {entry['node']}"
    return f"{entry['node']}: {entry['input']}: {entry['before']!r} -> {entry['after']!r}"
