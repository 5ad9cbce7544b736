"""Spans of OpenTelemetry, with its package and without it."""

from __future__ import annotations

from typing import Any

import pytest
from attention_patchbay.headless.engine import tracing
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.errors import NodeError

from ..nodes_for_tests import CATALOG, number, workflow


class Current:
    """A span as OpenTelemetry's: its name, attributes, and whether an error ended it."""

    def __init__(self, name: str, attributes: dict[str, Any], log: list[Any]) -> None:
        self.name, self.attributes, self.log, self.failed = name, dict(attributes), log, False

    def set_attributes(self, attributes: dict[str, Any]) -> None:
        self.attributes |= attributes

    def __enter__(self) -> Current:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.failed = kind is not None
        self.log.append(self)


def run(**changes: Any) -> None:
    from attention_patchbay.headless.api.session import Session

    Executor(CATALOG, Session()).run(workflow(**changes))


def test_without_the_package_nothing_is_spanned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "trace", None)
    with tracing.span("patchbay.run", nodes=1) as told:
        told["ran"] = 1
    run()


def test_a_run_and_its_nodes_are_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Current] = []

    class Trace:
        @staticmethod
        def get_tracer(name: str) -> Any:
            assert name == "attention_patchbay"
            return Trace

        @staticmethod
        def start_as_current_span(name: str, attributes: dict[str, Any]) -> Current:
            return Current(name, attributes, ended)

    monkeypatch.setattr(tracing, "trace", Trace)
    run()
    assert [one.name for one in ended] == [f"patchbay.node {kind}" for kind in ("Number", "Number", "Add", "Show")] + [
        "patchbay.run"
    ]
    assert ended[2].attributes == {"patchbay.node": "3"}
    assert ended[-1].attributes == {"patchbay.nodes": 4, "patchbay.ran": 4, "patchbay.cached": 0}
    ended.clear()
    with pytest.raises(NodeError, match="thirteen"):
        run(n1=number(value=10))
    assert [one.failed for one in ended] == [False, False, False, True, True]


def test_spans_are_those_that_opentelemetry_exports() -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    run()
    *nodes, whole = exporter.get_finished_spans()
    assert whole.name == "patchbay.run" and (whole.attributes or {})["patchbay.ran"] == 4
    assert len(nodes) == 4 and all(one.parent and one.parent.span_id == whole.context.span_id for one in nodes)
