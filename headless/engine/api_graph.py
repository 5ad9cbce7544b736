"""Run a workflow in API format: nodes in order, each once, unchanged ones not again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ...ldm_patched.modules.model_management import throw_exception_if_processing_interrupted
from ..api.comfy_io import ComfyNode, Hidden, NodeOutput
from ..api.session import Session, entered
from .brought import brought, gathered
from .errors import NodeError
from .older_results import OlderResults
from .tracing import span
from .validate import Catalog, is_link, validate_outputs
from .workflow import Prompt, title


@dataclass
class Run:
    """What came of a run: the nodes that ran and those taken from the cache, and what each showed.

    Args:
        refused: the errors of nodes whose outputs were left out, by node.
    """

    ran: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    ui: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class _State:
    """What a run knows so far: by node its output and signature.

    Args:
        nodes: those of the prompt, and those that nodes put in their place.
        kept: the outputs by signature, for the next run.
    """

    prompt: Prompt
    nodes: Prompt
    run: Run
    extra_pnginfo: Mapping[str, Any] | None
    on_node: Callable[[str], None] | None
    outputs: dict[str, NodeOutput] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    kept: dict[str, NodeOutput] = field(default_factory=dict)


class Executor:
    """Runs workflows one after the other. Results of the last one stay for the next, those without weights longer."""

    def __init__(self, catalog: Catalog, session: Session) -> None:
        self.catalog = catalog
        self.session = session
        self._results: dict[str, NodeOutput] = {}
        self._older = OlderResults()

    def run(
        self,
        prompt: Prompt,
        extra_pnginfo: Mapping[str, Any] | None = None,
        on_node: Callable[[str], None] | None = None,
    ) -> Run:
        """Check and run a workflow; `on_node` is called with the name of each node before it runs.

        Raises PromptError before anything runs, NodeError when a node fails.
        """
        with entered(self.session), span("patchbay.run", nodes=len(prompt)) as told:
            order, refused = validate_outputs(prompt, self.catalog)
            state = _State(prompt, dict(prompt), Run(refused=refused), extra_pnginfo, on_node)
            try:
                self._finish(state, [id for id in order if self._is_output(prompt, id)])
            finally:
                self._results = state.kept
                told |= {"ran": len(state.run.ran), "cached": len(state.run.cached)}
            return state.run

    def _is_output(self, prompt: Prompt, id: str) -> bool:
        return self.catalog[prompt[id]["class_type"]].GET_SCHEMA().is_output_node

    def _finish(self, state: _State, wanted: list[str]) -> None:
        """Run what the wanted nodes need and has not run yet."""
        for id in self._needed(state.nodes, wanted, state.outputs):
            throw_exception_if_processing_interrupted()
            signature = state.signatures[id] = self._signature(state, id)
            known = state.kept.get(signature) or self._results.get(signature) or self._older.get(signature)
            if known is not None:
                state.run.cached.append(id)
                state.kept[signature] = known
            else:
                if state.on_node is not None:
                    state.on_node(title(state.nodes, id))
                answer = self._execute(state, id)
                result = answer if answer.expand is None else self._expanded(state, id, answer)
                state.kept[signature] = result
                self._older.keep(signature, result, self.catalog[state.nodes[id]["class_type"]].GET_SCHEMA())
                state.run.ran.append(id)
            state.outputs[id] = state.kept[signature]
            if state.outputs[id].ui:
                state.run.ui[id] = state.outputs[id].ui or {}

    def _expanded(self, state: _State, id: str, answer: NodeOutput) -> NodeOutput:
        """Run the nodes that a node put in its place, and return what they give; one of them shows for it."""
        added = answer.expand or {}
        state.nodes.update(added)
        self._finish(state, [value[0] for value in answer.args if is_link(value)])
        shows = [one for one in added if added[one].get("override_display_id") == id and one in state.outputs]
        ui = state.outputs[shows[-1]].ui if shows else answer.ui
        return NodeOutput(*(_value(value, state.outputs) for value in answer.args), ui=ui)

    def _needed(self, prompt: Prompt, wanted: list[str], outputs: Mapping[str, NodeOutput]) -> Iterator[str]:
        """Yield the nodes to run, each when those that it needs have run; `outputs` are what there is so far.

        What only a lazy input leads to is needed when its node asks for it.
        """
        for last in wanted:
            waiting = [last]
            while waiting:
                id = waiting[-1]
                missing = [source for source in self._sources(prompt, id, outputs) if source not in outputs]
                if missing:
                    waiting += missing[:1]
                    continue
                if id not in outputs:
                    yield id
                waiting.pop()

    def _sources(self, prompt: Prompt, id: str, outputs: Mapping[str, NodeOutput]) -> list[str]:
        """Return the nodes that a node needs, of which lazy inputs lead to those that it asks for."""
        cls = self.catalog[prompt[id]["class_type"]]
        given = _declared(cls, prompt[id])
        linked = {name: value[0] for name, value in given.items() if is_link(value)}
        lazy = {entry.id for entry in cls.GET_SCHEMA().inputs if entry.entries.get("lazy")}
        sources = [source for name, source in linked.items() if name not in lazy]
        if not lazy & set(linked) or any(source not in outputs for source in sources):
            return sources
        values = {name: _value(value, outputs) for name, value in given.items()}
        return sources + [linked[name] for name in cls.check_lazy_status(**values) if name in linked]

    def _signature(self, state: _State, id: str) -> str:
        """Return what the result of a node depends on: its class, its constants, and the signatures of its sources."""
        node = state.nodes[id]
        cls = self.catalog[node["class_type"]]
        given = _declared(cls, node)
        constants = {name: value for name, value in given.items() if not is_link(value)}
        sources = {name: [state.signatures.get(v[0]), v[1]] for name, v in given.items() if is_link(v)}
        fingerprint = getattr(cls, "fingerprint_inputs", None)
        outside = None if fingerprint is None else repr(fingerprint(**constants))
        schema = cls.GET_SCHEMA()
        itself = id if schema.not_idempotent or schema.hidden else None
        # it is written into the files that the node makes
        whole = state.prompt if Hidden.prompt in schema.hidden else None
        everything = json.dumps(
            [node["class_type"], constants, sources, outside, itself, whole], sort_keys=True, default=repr
        )
        return hashlib.sha256(everything.encode()).hexdigest()

    def _execute(self, state: _State, id: str) -> NodeOutput:
        node = state.nodes[id]
        cls = self.catalog[node["class_type"]]
        values = gathered(_entries(cls), {n: _value(v, state.outputs) for n, v in _declared(cls, node).items()})
        hidden = {Hidden.unique_id: id, Hidden.prompt: state.prompt, Hidden.extra_pnginfo: state.extra_pnginfo}
        try:
            with span(f"patchbay.node {node['class_type']}", node=id):
                answer = _with_hidden(cls, hidden).execute(**values)
        except Exception as error:
            raise NodeError(f"{title(state.nodes, id)}: {error}") from error
        return answer if isinstance(answer, NodeOutput) else NodeOutput(*(answer or ()))


def _value(given: Any, outputs: Mapping[str, NodeOutput]) -> Any:
    """Return a constant, or what is linked; None where that has not run."""
    if not is_link(given):
        return given
    source = outputs.get(given[0])
    return None if source is None else source.args[given[1]]


def _entries(cls: type[ComfyNode]) -> list[tuple[str, bool, Any]]:
    return [(entry.id, entry.optional, entry.info()) for entry in cls.GET_SCHEMA().inputs]


def _declared(cls: type[ComfyNode], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that a class declares; what else is given for it is nobody's."""
    if cls.GET_SCHEMA().accept_all_inputs:
        return dict(node["inputs"])
    names = {name for name, _, _ in brought(_entries(cls), node["inputs"])}
    return {name: value for name, value in node["inputs"].items() if name in names}


def _with_hidden(cls: type[ComfyNode], hidden: Mapping[Hidden, Any]) -> type[ComfyNode]:
    """Return a class of its own for one call, with the hidden values that the node asks for."""
    wanted = cls.GET_SCHEMA().hidden
    if not wanted:
        return cls
    values = SimpleNamespace(**{entry.name: hidden[entry] for entry in wanted})
    return type(cls.__name__, (cls,), {"hidden": values})
