"""Every method there is: what is declared in the files of `methods` and `routing`, with no list to keep."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from .. import methods, routing
from ..engine.declaration import Declaration, inputs_of
from ..engine.method import Method
from .report import Row

PREFIX = "Patchbay"  # of the ids of nodes


@functools.cache
def declared() -> tuple[type[Method], ...]:
    """Return the classes that `@method` declared, by the names of their files."""
    found: list[type[Method]] = []
    for package in (methods, routing):
        for file in sorted(pkgutil.iter_modules(package.__path__), key=lambda file: file.name):
            module = importlib.import_module(f"{package.__name__}.{file.name}")
            found += [one for one in vars(module).values() if _is_declared(one, module.__name__)]
    return tuple(found)


def by_name() -> dict[str, type[Method]]:
    """Return the methods that have a node, by its id without `Patchbay`."""
    return {one.declaration.node.removeprefix(PREFIX): one for one in declared() if one.declaration.node}


def about(name: str, method: type[Method]) -> Row:
    """Return a row of a method: its name, what it does, and its settings with their defaults."""
    settings = {widget.name: dict(widget.settings).get("default") for widget in inputs_of(method)}
    return {"method": name, "text": method.declaration.text, "settings": settings}


def _is_declared(one: object, module: str) -> bool:
    return (
        isinstance(one, type) and one.__module__ == module and isinstance(one.__dict__.get("declaration"), Declaration)
    )
