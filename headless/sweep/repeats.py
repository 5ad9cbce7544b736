"""Repeats of every cell: other seeds, other prompts, and the baseline once more by another exact attention function."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ldm_patched.ldm.modules.backends import registry
from ..engine.errors import Failure
from ..engine.validate import is_link, links
from ..engine.workflow import Prompt, find_node, short
from ..pages.page_widgets import SEEDS, Infos, Widget, inputs_of, takes_text
from .axes import lines

MOST = 10_000  # seeds
SEED_VALUES = 2**64
KERNEL = "PatchbayAttentionBackend"
Choice = dict[str, Any]  # name of an axis -> value


@dataclass(frozen=True)
class Repeats:
    """What is repeated: the names of the inputs that repeats set, and their values in each.

    Args:
        seeds: the seeds of the workflow, which count up together.
        text: the input that gets the prompts; empty without prompts.
    """

    seeds: tuple[str, ...] = ()
    text: str = ""
    values: tuple[Choice, ...] = ({},)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the inputs that repeats set."""
        return (*self.seeds, self.text) if self.text else self.seeds


def repeats(prompt: Prompt, infos: Infos, count: int = 1, prompts: str = "") -> Repeats:
    """Return the repeats: `count` seeds from the workflow's own on, each with every prompt of a file.

    Args:
        prompts: `FILE`, or `NODE.input=FILE` where it is not plain which text is the positive prompt.

    Raises Failure naming the option and the fix.
    """
    if not 1 <= count <= MOST:
        raise Failure(f"--repeat {count}: write how many seeds to take, from 1 to {MOST}")
    seeds = _seeds(prompt) if count > 1 else {}
    if count > 1 and not seeds:
        raise Failure("--repeat: no node of this workflow has a seed of its own; use --prompts, or an axis")
    numbers = [{name: (seed + i) % SEED_VALUES for name, seed in seeds.items()} for i in range(count)]
    text, path = _text(prompt, infos, prompts) if prompts else ("", Path())
    texts = [{text: line} for line in lines(f"--prompts {prompts}", path)] if prompts else [{}]
    if len({line for one in texts for line in one.values()}) != len(texts) and prompts:
        raise Failure(f"--prompts {path}: a prompt stands there twice; each is repeated by --repeat")
    return Repeats(tuple(seeds), text, tuple({**a, **b} for a, b in itertools.product(texts, numbers)))


def _seeds(prompt: Prompt) -> dict[str, int]:
    found = {}
    for id, node in prompt.items():
        for name in SEEDS:
            value = node["inputs"].get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                found[f"{id}.{name}"] = value
    return found


def _text(prompt: Prompt, infos: Infos, written: str) -> tuple[str, Path]:
    """Return the input that prompts are for, and their file."""
    target, equals, path = written.partition("=")
    node, _, input = target.rpartition(".")
    if equals and node and not Path(written).is_file():
        try:
            return f"{find_node(prompt, node)}.{input}", Path(path)
        except ValueError as error:
            raise Failure(f"--prompts {short(written)}: {error}") from None
    found = sorted(set(_positive(prompt, infos)))
    if len(found) != 1:
        there = f"its texts are {', '.join(found)}" if found else "none leads there"
        how = f"--prompts: write NODE.input={short(written)}; the positive prompt is not plain, {there}"
        raise Failure(how)
    return found[0], Path(written)


def _positive(prompt: Prompt, infos: Infos) -> Iterator[str]:
    """Yield the texts that the positive conditioning comes from."""
    sinks = [node["inputs"]["positive"] for node in prompt.values() if is_link(node["inputs"].get("positive"))]
    sinks = sinks or [node["inputs"].get("conditioning") for node in prompt.values()]
    waiting, seen = [link[0] for link in sinks if is_link(link)], set[str]()
    while waiting:
        id = waiting.pop()
        if id in seen or id not in prompt:
            continue
        seen.add(id)
        node = prompt[id]
        info = infos.get(str(node.get("class_type")), {})
        yield from (f"{id}.{name}" for name, value in node["inputs"].items() if _is_text(info, name, value))
        sources = {name: source for name, source, _ in links(node)}
        waiting += [sources["positive"]] if "positive" in sources else list(sources.values())


def _is_text(info: Mapping[str, Any], name: str, value: Any) -> bool:
    return isinstance(value, str) and takes_text(info, name)


ONCE = Repeats()


# The noise floor


def by_kernel(prompt: Prompt, kernel: str, infos: Infos) -> Prompt:
    """Return a workflow whose attention is all computed by another exact function: what differs then is noise.

    Raises Failure for a function that is not exact, or where the pack's node or a model is missing.
    """
    known = registry.get(kernel)
    if known is None or not known.exact:
        exact = [name for name in registry.names() if (found := registry.get(name)) is not None and found.exact]
        raise Failure(f"--floor {short(kernel)}: write an exact attention function, one of {', '.join(exact)}")
    if KERNEL not in infos:
        raise Failure(f"--floor: there is no node {KERNEL} here; install Attention Patchbay on the server")
    values = {name: Widget.of(name, entry).default for name, entry in inputs_of(infos[KERNEL]) if name != "model"}
    changed = copy.deepcopy(prompt)
    for id, node in prompt.items():
        outputs = infos.get(str(node.get("class_type")), {}).get("output", [])
        if is_link(node["inputs"].get("model")) and "MODEL" not in outputs:  # the last that gets it
            inputs = {**values, "model": node["inputs"]["model"], "backend": kernel}
            changed[f"{id} floor"] = {"class_type": KERNEL, "inputs": inputs}
            changed[id]["inputs"]["model"] = [f"{id} floor", 0]
    if len(changed) == len(prompt):
        raise Failure("--floor: no node of this workflow gets a model, so there is no attention to compute otherwise")
    return changed
