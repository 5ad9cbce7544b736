"""Spans of OpenTelemetry around what takes time, where its package is installed; whoever configures it gets them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

try:
    from opentelemetry import trace
except ModuleNotFoundError:
    trace = None  # type: ignore[assignment, unused-ignore]

Value = str | bool | int | float


@contextlib.contextmanager
def span(name: str, **attributes: Value) -> Iterator[dict[str, Value]]:
    """Span a block of code; what is put into the dict that it gives becomes attributes at the end.

    Names of attributes begin with `patchbay.`; an exception is recorded and goes on.
    """
    later: dict[str, Value] = {}
    if trace is None:
        yield later
        return
    with trace.get_tracer("attention_patchbay").start_as_current_span(name, attributes=_named(attributes)) as current:
        try:
            yield later
        finally:
            current.set_attributes(_named(later))


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"patchbay.{name}": value for name, value in attributes.items()}
