"""Run a workflow in API format: nodes in order, each once, unchanged ones not again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...ldm_patched.modules.model_management import throw_exception_if_processing_interrupted
from ..api.comfy_io import ComfyNode, Hidden, NodeOutput
from ..api.session import Session, current, entered
from .brought import declared, entries, gathered
from .contents import Contents, prints
from .errors import NodeError
from .file_digests import FileDigests
from .older_results import OlderResults
from .stored_results import StoredResults
from .tracing import span
from .validate import Catalog, is_link, validate_outputs
from .workflow import Prompt, title
from .written import Print, written


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
        contents: names by content, of which those of stored results are their signatures.
        asked: the nodes whose stored results were looked for.
    """

    prompt: Prompt
    nodes: Prompt
    run: Run
    extra_pnginfo: Mapping[str, Any] | None
    on_node: Callable[[str], None] | None
    outputs: dict[str, NodeOutput] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    kept: dict[str, NodeOutput] = field(default_factory=dict)
    contents: dict[str, str | None] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)


class Executor:
    """Runs workflows one after the other. Results of the last one stay for the next, those without weights longer.

    Args:
        folder: where results of nodes that say so are kept for other processes; None for nowhere.
    """

    def __init__(self, catalog: Catalog, session: Session, folder: Path | None = None) -> None:
        self.catalog = catalog
        self.session = session
        self._results: dict[str, NodeOutput] = {}
        self._written: dict[str, list[Print]] = {}  # of the results that show something
        self._older = OlderResults()
        self._stored = None if folder is None else StoredResults(folder)
        self._contents = None if folder is None else Contents(catalog, FileDigests())

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
                self._written = {name: files for name, files in self._written.items() if name in state.kept}
                told |= {"ran": len(state.run.ran), "cached": len(state.run.cached)}
            return state.run

    def _is_output(self, prompt: Prompt, id: str) -> bool:
        return self.catalog[prompt[id]["class_type"]].GET_SCHEMA().is_output_node

    def _finish(self, state: _State, wanted: list[str]) -> None:
        """Run what the wanted nodes need and has not run yet."""
        for id in self._needed(state, wanted):
            throw_exception_if_processing_interrupted()
            signature = self._content(state, id) or self._signature(state, id)
            known = self._known(state, signature)
            if known is not None:
                state.run.cached.append(id)
            else:
                if state.on_node is not None:
                    state.on_node(title(state.nodes, id))
                answer = self._execute(state, id)
                known = answer if answer.expand is None else self._expanded(state, id, answer)
                self._store(state, id, known)
                state.run.ran.append(id)
            self._take(state, id, signature, known)

    def _known(self, state: _State, signature: str) -> NodeOutput | None:
        found = state.kept.get(signature) or self._results.get(signature) or self._older.get(signature)
        if found is not None and found.ui and written(found.ui, current().folders) != self._written.get(signature):
            return None  # what it says it wrote is not there
        return found

    def _take(self, state: _State, id: str, signature: str, result: NodeOutput) -> None:
        """Note the result of a node, and keep it for later runs."""
        state.signatures[id], state.kept[signature], state.outputs[id] = signature, result, result
        self._older.keep(signature, result, self.catalog[state.nodes[id]["class_type"]].GET_SCHEMA())
        if result.ui:
            state.run.ui[id] = result.ui
            self._written[signature] = written(result.ui, current().folders)

    def _content(self, state: _State, id: str) -> str | None:
        """Return under which name the result of a node is stored; None where it is not."""
        if self._contents is None or not self.catalog[state.nodes[id]["class_type"]].stored:
            return None
        return self._contents.key(state.nodes, id, state.contents)

    def _recalled(self, state: _State, id: str) -> bool:
        """Take the stored result of a node, so that nothing behind it has to run; return whether there was one."""
        if id in state.asked or self._stored is None or (name := self._content(state, id)) is None:
            return False
        state.asked.add(id)
        found = self._known(state, name) or self._stored.get(name)
        if found is not None:
            state.run.cached.append(id)
            self._take(state, id, name, found)
            self._keep_behind(state)
        return found is not None

    def _keep_behind(self, state: _State) -> None:
        """Keep what the last run had of the nodes behind recalled ones: the next may need their text encoder again."""
        for id in state.contents:  # sources come first
            if id not in state.signatures:
                signature = state.signatures[id] = self._content(state, id) or self._signature(state, id)
                if signature in self._results:
                    state.kept[signature] = self._results[signature]

    def _store(self, state: _State, id: str, result: NodeOutput) -> None:
        """Store the result of a node, unless a file behind it was changed since its name was made."""
        name = self._content(state, id)
        if self._stored is None or self._contents is None or name is None:
            return
        if self._contents.key(state.nodes, id, {}) == name:
            self._stored.keep(name, result)

    def _expanded(self, state: _State, id: str, answer: NodeOutput) -> NodeOutput:
        """Run the nodes that a node put in its place, and return what they give; one of them shows for it."""
        added = answer.expand or {}
        state.nodes.update(added)
        self._finish(state, [value[0] for value in answer.args if is_link(value)])
        shows = [one for one in added if added[one].get("override_display_id") == id and one in state.outputs]
        ui = state.outputs[shows[-1]].ui if shows else answer.ui
        return NodeOutput(*(_value(value, state.outputs) for value in answer.args), ui=ui)

    def _needed(self, state: _State, wanted: list[str]) -> Iterator[str]:
        """Yield the nodes to run, each when those that it needs have run.

        What only a lazy input leads to is needed when its node asks for it.
        """
        prompt, outputs = state.nodes, state.outputs
        for last in wanted:
            waiting = [last]
            while waiting:
                id = waiting[-1]
                if id in outputs or self._recalled(state, id):
                    waiting.pop()
                    continue
                missing = [source for source in self._sources(prompt, id, outputs) if source not in outputs]
                if missing:
                    waiting += missing[:1]
                    continue
                yield id
                waiting.pop()

    def _sources(self, prompt: Prompt, id: str, outputs: Mapping[str, NodeOutput]) -> list[str]:
        """Return the nodes that a node needs, of which lazy inputs lead to those that it asks for."""
        cls = self.catalog[prompt[id]["class_type"]]
        given = declared(cls, prompt[id])
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
        given = declared(cls, node)
        constants = {name: value for name, value in given.items() if not is_link(value)}
        sources = {name: [state.signatures.get(v[0]), v[1]] for name, v in given.items() if is_link(v)}
        fingerprint = getattr(cls, "fingerprint_inputs", None)
        outside = [prints(cls, constants), None if fingerprint is None else repr(fingerprint(**constants))]
        schema = cls.GET_SCHEMA()
        place = str(current().folders.output.absolute()) if "filename_prefix" in given else None
        itself = id if schema.not_idempotent or schema.hidden else None
        # it is written into the files that the node makes
        whole = state.prompt if Hidden.prompt in schema.hidden else None
        everything = json.dumps(
            [node["class_type"], constants, sources, outside, itself, whole, place], sort_keys=True, default=repr
        )
        return hashlib.sha256(everything.encode()).hexdigest()

    def _execute(self, state: _State, id: str) -> NodeOutput:
        node = state.nodes[id]
        cls = self.catalog[node["class_type"]]
        values = gathered(entries(cls), {n: _value(v, state.outputs) for n, v in declared(cls, node).items()})
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


def _with_hidden(cls: type[ComfyNode], hidden: Mapping[Hidden, Any]) -> type[ComfyNode]:
    """Return a class of its own for one call, with the hidden values that the node asks for."""
    wanted = cls.GET_SCHEMA().hidden
    if not wanted:
        return cls
    values = SimpleNamespace(**{entry.name: hidden[entry] for entry in wanted})
    return type(cls.__name__, (cls,), {"hidden": values})
