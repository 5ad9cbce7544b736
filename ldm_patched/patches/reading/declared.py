"""Every method there is: what is declared in the files of `methods` and `routing`, with no list to keep."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from .. import methods, routing
from ..engine.declaration import Declaration
from ..engine.method import Method


@functools.cache
def declared() -> tuple[type[Method], ...]:
    """Return the classes that `@method` declared, by the names of their files."""
    found: list[type[Method]] = []
    for package in (methods, routing):
        for file in sorted(pkgutil.iter_modules(package.__path__), key=lambda file: file.name):
            module = importlib.import_module(f"{package.__name__}.{file.name}")
            found += [one for one in vars(module).values() if _is_declared(one, module.__name__)]
    return tuple(found)


def _is_declared(one: object, module: str) -> bool:
    return (
        isinstance(one, type) and one.__module__ == module and isinstance(one.__dict__.get("declaration"), Declaration)
    )
