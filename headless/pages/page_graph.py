"""A workflow in the page's own format as a flat graph: subgraphs expanded, and every input followed to its true source.

Muted nodes give nothing, bypassed nodes hand on the input that fits, reroutes and primitives are looked through, as
ComfyUI's page does before it sends a workflow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.validate import connects
from ..engine.workflow import PromptError, problem

NEVER, BYPASS = 2, 4  # modes of a node
VIRTUAL = ("Reroute", "PrimitiveNode", "Note", "MarkdownNote")
INPUT_SIDE, OUTPUT_SIDE = -10, -20  # ids of the two ends of a subgraph
DEEPEST = 50  # subgraphs in subgraphs
MOST = 1_500_000  # nodes, slots and links looked at; a large workflow takes some ten thousand


@dataclass(frozen=True)
class Link:
    """A link of one graph."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(frozen=True)
class Value:
    """A constant at the end of a link: that of a primitive, or of a widget on a subgraph."""

    value: Any


@dataclass(frozen=True, eq=False)
class Shown:
    """A widget inside of a subgraph that the subgraph shows: its value is that of the widget."""

    node: PageNode
    name: str


@dataclass(frozen=True, eq=False)
class Graph:
    """The root graph or one instance of a subgraph: `path` are the ids of the nodes around it."""

    data: Mapping[str, Any]
    nodes: Mapping[str, Mapping[str, Any]]
    links: Mapping[str, Link]
    path: tuple[str, ...] = ()
    outer: Graph | None = None


@dataclass(frozen=True, eq=False)
class PageNode:
    """A node in its graph."""

    graph: Graph
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Return the id in the flat graph: those of the subgraphs around it and its own."""
        return ":".join([*self.graph.path, str(self.data["id"])])

    @property
    def type(self) -> str:
        """Return the class, or the id of the subgraph."""
        return str(self.data.get("type"))

    @property
    def off(self) -> bool:
        """Return whether the node does not run."""
        return self.data.get("mode") in (NEVER, BYPASS)

    @property
    def inputs(self) -> list[Mapping[str, Any]]:
        """Return the slots of the inputs."""
        return _objects(self.data.get("inputs"))

    @property
    def outputs(self) -> list[Mapping[str, Any]]:
        """Return the slots of the outputs."""
        return _objects(self.data.get("outputs"))


class Page:
    """A workflow of the page.

    Raises PromptError when its parts do not fit together, or are too many: subgraphs in subgraphs grow without end.
    """

    def __init__(self, workflow: Mapping[str, Any]) -> None:
        definitions = workflow.get("definitions")
        subgraphs = _objects(definitions.get("subgraphs") if isinstance(definitions, dict) else None)
        self.subgraphs = {str(part.get("id")): part for part in subgraphs}
        self.root = _graph(workflow)
        self.inner: dict[str, Graph] = {}  # by the id of the node that stands for it
        self.looked_at = 0

    def running(self) -> list[PageNode]:
        """Return the nodes that run, in the order of the file; those of a subgraph in its place."""
        return [node for node in self._expand(self.root) if node.type not in VIRTUAL]

    def every_node(self) -> Iterator[PageNode]:
        """Return the nodes of all graphs, also those that do not run; those of a subgraph before its own."""
        yield from self._every_in(self.root)

    def _every_in(self, graph: Graph) -> Iterator[PageNode]:
        for data in graph.nodes.values():
            self._look_at(1)
            node = PageNode(graph, data)
            if node.type in self.subgraphs:
                yield from self._every_in(self._inside(node))
            yield node

    def _look_at(self, count: int) -> None:
        self.looked_at += count
        if self.looked_at > MOST:
            raise wrong("it is too large", f"over {MOST} nodes, slots and links, those of subgraphs in their places")

    def _expand(self, graph: Graph) -> Iterator[PageNode]:
        for data in graph.nodes.values():
            self._look_at(1)
            node = PageNode(graph, data)
            if node.off:
                continue
            if node.type in self.subgraphs:
                yield from self._expand(self._inside(node))
            else:
                yield node

    def _inside(self, node: PageNode) -> Graph:
        if node.id not in self.inner:
            path = (*node.graph.path, str(node.data["id"]))
            if len(path) > DEEPEST:
                raise wrong("subgraphs that hold themselves", f"node {node.id} is {len(path)} subgraphs deep")
            self.inner[node.id] = graph = _graph(self.subgraphs[node.type], path, node.graph)
            self._look_at(10 * (len(graph.nodes) + len(graph.links)))  # making one takes longer than looking at it
        return self.inner[node.id]

    # Where an input comes from

    def source(self, node: PageNode, slot: int) -> tuple[PageNode, int] | Value | Shown | None:
        """Return the output (node, slot) that feeds an input, or a constant; None where nothing does."""
        step: Any = ("in", node, slot, None)
        seen = set()
        while isinstance(step, tuple) and isinstance(step[0], str):
            where, at, number, type = step
            if (where, at.id, number) in seen:
                raise wrong("links go round in a circle", f"at input {slot} of node {node.id}")
            seen.add((where, at.id, number))
            step = self._into(at, number, type) if where == "in" else self._out_of(at, number, type)
        return step

    def _into(self, node: PageNode, slot: int, type: Any) -> Any:
        """Follow an input to the output at the other end of its link."""
        inputs, graph = node.inputs, node.graph
        self._look_at(10 + len(inputs))
        if slot >= len(inputs):
            return None
        entry = inputs[slot]
        link = graph.links.get(str(entry.get("link")))
        if link is None:
            return None
        if link.origin == str(INPUT_SIDE) and graph.outer is not None:
            return self._from_around(graph, link.origin_slot, type)
        if link.origin not in graph.nodes:
            raise wrong("a link comes from no node", f"input {entry.get('name')!r} of node {node.id}")
        return ("out", PageNode(graph, graph.nodes[link.origin]), link.origin_slot, type or entry.get("type"))

    def _from_around(self, graph: Graph, number: int, type: Any) -> Any:
        """Follow an input of a subgraph to the node around it: to its link, or to the widget that it shows."""
        around = PageNode(graph.outer, graph.outer.nodes[graph.path[-1]])  # type: ignore[union-attr, arg-type]
        inputs = _objects(graph.data.get("inputs"))
        name = inputs[number].get("name") if number < len(inputs) else None
        slot = next((slot for slot, entry in enumerate(around.inputs) if entry.get("name") == name), None)
        if slot is not None and str(around.inputs[slot].get("link")) in around.graph.links:
            return ("in", around, slot, type)
        shown = {place: widget for place in range(len(inputs)) if (widget := self._widget(graph, place)) is not None}
        if number not in shown:
            return None
        named, values = around.data.get("widgets_values_named"), around.data.get("widgets_values")
        if isinstance(named, dict) and name in named:
            return Value(named[name])
        place = list(shown).index(number)
        return Value(values[place]) if isinstance(values, list) and place < len(values) else shown[number]

    def _widget(self, graph: Graph, number: int) -> Shown | None:
        """Return the first widget that an input of a subgraph leads to."""
        self._look_at(10 + len(graph.links))
        for link in graph.links.values():
            if (link.origin, link.origin_slot) != (str(INPUT_SIDE), number) or link.target not in graph.nodes:
                continue
            node = PageNode(graph, graph.nodes[link.target])
            entry = node.inputs[link.target_slot] if link.target_slot < len(node.inputs) else {}
            if "widget" not in entry:
                continue
            if node.type not in self.subgraphs:
                return Shown(node, str(entry.get("name")))
            inner = self._inside(node)
            names = [part.get("name") for part in _objects(inner.data.get("inputs"))]
            if entry.get("name") in names:
                return self._widget(inner, names.index(entry.get("name")))
        return None

    def _out_of(self, node: PageNode, slot: int, type: Any) -> Any:
        """Follow an output to where its value is made."""
        if node.data.get("mode") == NEVER:
            return None
        if node.data.get("mode") == BYPASS:
            passed = _passed_by(node, slot, type)
            return None if passed is None else ("in", node, passed, None)
        if node.type in self.subgraphs:
            graph = self._inside(node)
            self._look_at(len(graph.links))
            ends = [one for one in graph.links.values() if (one.target, one.target_slot) == (str(OUTPUT_SIDE), slot)]
            if not ends or ends[-1].origin not in graph.nodes:
                return None
            return ("out", PageNode(graph, graph.nodes[ends[-1].origin]), ends[-1].origin_slot, type)
        if node.type == "Reroute":
            return ("in", node, 0, type)
        if node.type == "PrimitiveNode":
            values = node.data.get("widgets_values")
            return Value(values[0]) if isinstance(values, list) and values else None
        return None if node.type in VIRTUAL else (node, slot)


def _passed_by(node: PageNode, slot: int, type: Any) -> int | None:
    """Return the input that a bypassed node hands on as an output."""
    output = node.outputs[slot].get("type") if slot < len(node.outputs) else type
    return passed_by([entry.get("type") for entry in node.inputs], slot, output, type)


def passed_by(types: Sequence[Any], slot: int, output: Any, type: Any) -> int | None:
    """Return which input a bypassed node hands on as the output `slot`, as ComfyUI's page chooses it.

    Args:
        types: of the inputs.
        output: type of the output.
        type: of the input that it goes to.
    """
    if type in ("*", "", None):
        return (slot if len(types) > slot else 0) if types else None
    fits = [connects(one, output) and connects(one, type) for one in types]
    if slot < len(types) and fits[slot]:
        return slot
    if type in types:
        return types.index(type)
    return fits.index(True) if True in fits else None


# Reading


def _graph(data: Mapping[str, Any], path: tuple[str, ...] = (), outer: Graph | None = None) -> Graph:
    nodes = {str(node.get("id")): node for node in _objects(data.get("nodes"))}
    if any("id" not in node for node in nodes.values()):
        raise wrong("a node without an id", "every node needs one")
    links = data.get("links")
    found = dict(map(_link, links if isinstance(links, list) else []))
    return Graph(data, nodes, found, path, outer)


def _link(link: Any) -> tuple[str, Link]:
    try:
        if isinstance(link, list):
            id, origin, origin_slot, target, target_slot, *_ = link
        else:
            names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            id, origin, origin_slot, target, target_slot = (link[name] for name in names)
        return str(id), Link(str(origin), int(origin_slot), str(target), int(target_slot))
    except (ValueError, TypeError, KeyError):
        raise wrong("a link cannot be read", repr(link)[:80]) from None


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def wrong(message: str, details: str) -> PromptError:
    """Return the error for a workflow of the page that cannot be converted."""
    return PromptError(problem("no_prompt", f"The workflow cannot be converted: {message}", details))
