"""A workflow in API format: its structure, its values by name, and the errors of both.

An error is a dict with `type`, `message`, `details` and `extra_info`, as ComfyUI's /prompt gives it.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]
MAX_BYTES = 64 * 2**20
MAX_NODES = 20_000
LIST = 2000  # letters of a list in a message
CONTROLS = ("Cc", "Cs", "Zl", "Zp")
SAMPLERS = ("KSampler", "KSamplerAdvanced")
TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


class PromptError(ValueError):
    """A workflow that cannot run: `error` is about the whole of it, `node_errors` about its nodes by id."""

    def __init__(self, error: dict[str, Any], node_errors: Mapping[str, dict[str, Any]] | None = None) -> None:
        self.error = error
        self.node_errors = dict(node_errors or {})
        super().__init__(self._text())

    def _text(self) -> str:
        lines = [f"{entry['message']}: {entry['details']}" for entry in [self.error] if not self.node_errors]
        for node in self.node_errors.values():
            lines += [f"{node['name']}: {entry['message']}: {entry['details']}" for entry in node["errors"]]
        return "\n".join(line.rstrip(": ") for line in lines)


def decoded(data: bytes) -> str:
    """Return the text of a file: UTF-8, or UTF-16 with the mark that Windows writes before it.

    Raises ValueError.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")


def problem(type: str, message: str, details: str = "", **extra_info: Any) -> dict[str, Any]:
    """Return an error in the shape of /prompt; no text in it is longer than a page."""
    texts = {"message": short(message, LIST), "details": short(details, LIST)}
    return {"type": type, **texts, "extra_info": {name: _bounded(value) for name, value in extra_info.items()}}


def _bounded(value: Any) -> Any:
    """Return a value of a workflow for a message, of which the start will do."""
    if isinstance(value, list):
        return [short(part, LIST) if isinstance(part, str) else part for part in value[:LIST]]
    return short(value, LIST) if isinstance(value, str) else value


def check(data: Any) -> Prompt:
    """Return a workflow after checking its structure; a `prompt` entry around it is taken off.

    Raises PromptError.
    """
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict) and "class_type" not in data["prompt"]:
        data = data["prompt"]
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        how = "open it in ComfyUI and choose Workflow > Export (API), then run the exported file"
        raise PromptError(problem("no_prompt", "This is the page's own workflow format, not the API format", how))
    if not isinstance(data, dict) or not data:
        how = "expected an object of nodes, {id: {class_type, inputs}}"
        raise PromptError(problem("no_prompt", "This is not a workflow", how))
    if len(data) > MAX_NODES:
        raise PromptError(problem("no_prompt", "The workflow is too large", f"{len(data)} nodes, over {MAX_NODES}"))
    for id, node in data.items():
        if not isinstance(node, dict) or not isinstance(node.get("inputs", {}), dict):
            how = f"node {short(repr(id), 60)} is not an object with class_type and inputs"
            raise PromptError(problem("no_prompt", "This is not a workflow", how))
    return {id: {**_node(node), "inputs": dict(node.get("inputs", {}))} for id, node in data.items()}


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node without what a server noted in it when it ran."""
    return {name: value for name, value in node.items() if name != "is_changed"}


def title(prompt: Prompt, id: str) -> str:
    """Name a node for a message: its id, class, and title where it has one."""
    node = prompt[id]
    meta = node.get("_meta")
    given = meta.get("title") if isinstance(meta, dict) else None
    named = f" ({short(given, 80)})" if isinstance(given, str) and given != node.get("class_type") else ""
    return f"node {short(id, 80)} {short(str(node.get('class_type')), 80)}{named}"


Types = Callable[[str], Mapping[str, Any] | None]  # of the inputs of a class, by name; None of a class not known


def assign(prompt: Prompt, settings: Iterable[str], types: Types = lambda kind: None) -> None:
    """Set inputs of a workflow from texts `NODE.input=value`.

    NODE is an id, or a class or title that only one node has; the value is JSON if it parses, else text. An input that
    takes text gets JSON only where that is text: 1.50 stays as it is written.
    Raises PromptError.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        node, dot, name = key.rpartition(".")
        if not (equals and dot and node and name):
            raise _bad_set(setting, "write NODE.input=value, for example 3.seed=7")
        try:
            id, kind = find_input(prompt, node, name, types)
        except ValueError as error:
            raise _bad_set(setting, str(error)) from None
        value = value_of(text)
        prompt[id]["inputs"][name] = text if kind == "STRING" and not isinstance(value, str) else value


def find_input(prompt: Prompt, node: str, name: str, types: Types) -> tuple[str, Any]:
    """Return the id of a node, as `find_node`, and the type of its input; None of one that only the workflow knows.

    Raises ValueError with the nodes, or the inputs, that there are.
    """
    id = find_node(prompt, node)
    kind = str(prompt[id].get("class_type"))
    known = types(kind)
    if known is not None and name not in known and name not in prompt[id]["inputs"]:
        has = short(", ".join(known) or "none", LIST)
        raise ValueError(f"{short(kind, 80)} has no input {short(name, 80)!r}; it has {has}")
    return id, (known or {}).get(name)


def find_node(prompt: Prompt, node: str) -> str:
    """Return the id of a node by its id, or by a class or title that only one node has.

    Raises ValueError with the nodes there are.
    """
    matches = [node] if node in prompt else [id for id in prompt if node in _names(prompt[id])]
    if len(matches) != 1:
        nodes = ", ".join(f"{id} {prompt[id].get('class_type')}" for id in prompt)
        how = "no node has that id, class or title" if not matches else f"{len(matches)} nodes match; give the id"
        raise ValueError(f"{how}. The nodes are {short(nodes, LIST)}")
    return matches[0]


def sampler_of(prompt: Prompt) -> str:
    """Return the id of the one KSampler of a workflow. Raises PromptError where there is not exactly one."""
    samplers = [id for id, node in prompt.items() if node.get("class_type") in SAMPLERS]
    if len(samplers) != 1:
        how = f"expected one KSampler or KSamplerAdvanced, found {len(samplers)}"
        raise PromptError(problem("no_sampler", "This workflow cannot be tuned", how))
    return samplers[0]


def tuning(prompt: Prompt, widgets: Mapping[str, Any]) -> tuple[Prompt, str]:
    """Return the part of a workflow that leads to its KSampler, with a tuning node in the sampler's place, and its id.

    Raises PromptError where there is not exactly one KSampler.
    """
    sampler = sampler_of(prompt)
    given = prompt[sampler]["inputs"]
    linked = {"model": "model", "positive": "positive", "negative": "negative", "latent": "latent_image"}
    inputs = {name: given[source] for name, source in linked.items() if source in given}
    node = {"class_type": "PatchbayTuneAttention", "inputs": {**inputs, **widgets}}
    return {id: prompt[id] for id in _sources(prompt, inputs) if id != sampler} | {sampler: node}, sampler


def _sources(prompt: Prompt, inputs: Mapping[str, Any]) -> list[str]:
    """List the nodes that inputs come from, and those behind them."""
    found: list[str] = []
    waiting = list(inputs.values())
    while waiting:
        value = waiting.pop()
        source = value[0] if isinstance(value, list) and value else None
        if isinstance(source, str) and source in prompt and source not in found:
            found.append(source)
            waiting += prompt[source]["inputs"].values()
    return found


def _names(node: Mapping[str, Any]) -> tuple[Any, ...]:
    meta = node.get("_meta")
    return node.get("class_type"), meta.get("title") if isinstance(meta, dict) else None


def _bad_set(setting: str, how: str) -> PromptError:
    return PromptError(problem("bad_set", f"--set {short(setting)} cannot be applied", how))


def value_of(text: str) -> Any:
    """Return a value as it is written: JSON, or else the text itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


def shown(text: str) -> str:
    """Return a text without the characters that move a terminal's cursor, or turn what it shows."""
    return "".join("?" if char not in "\n\t" and _is_control(char) else char for char in text)


def one_line(text: str) -> str:
    """Return a text as `shown`, without breaks."""
    return shown(re.sub(r"\s", " ", text))


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in CONTROLS or unicodedata.bidirectional(char) in TURNS


def short(value: Any, most: int = 200) -> str:
    """Return a value as text of a bounded length; text as it is, anything else as Python writes it."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
